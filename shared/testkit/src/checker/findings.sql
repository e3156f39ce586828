-- Compares the audit with the promises: one row per promise, with the number of violations.
select finding, count
from (
    -- Ticks for which more than one transaction was committed.
    select 'ticks done twice', count(*) from (
        select from audit.rounds where scheduled group by tick_at having count(*) > 1
    ) as twice
    union all
    -- Rounds whose writes began before the previous round had ended: two held the lock at once.
    select 'rounds at the same time', count(*) from (
        select min(begins.at) as began, lag(max(rounds.at)) over (order by min(begins.at)) as before_ended
        from audit.begins join audit.rounds using (transaction_id) group by transaction_id
    ) as rounds
    where began < before_ended
    union all
    -- Transactions that did not do each of a round's three writes once.
    select 'incomplete rounds', count(*)
    from (select transaction_id, count(*) as renewals from audit.renewals group by 1) as renewals
    full join (select transaction_id, count(*) as choices from audit.choices group by 1) as choices using (transaction_id)
    full join (select transaction_id, count(*) as rounds from audit.rounds group by 1) as rounds using (transaction_id)
    where (renewals, choices, rounds) is distinct from (1, 1, 1)
    union all
    -- Rounds whose chosen users do not qualify, or are too few.
    select 'rounds with wrong users', count(*) from audit.choices where not valid
    union all
    -- Users that a round skipped, or gave a time other than its own; and users without the time
    -- of the last round.
    select 'users not renewed',
        (select coalesce(sum(stale + (select count(*) from users) - renewed), 0) from audit.renewals)
            + (select count(*) from users where updated_at < (select max(started_at) from rounds))
    union all
    -- Moves that do not continue exactly where the previous one ended, or that go back in time.
    select 'errors in the chain', count(*) from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before from audit.moves
    ) as moves
    where previous_at is distinct from before or queried_at < previous_at
) as findings (finding, count)
