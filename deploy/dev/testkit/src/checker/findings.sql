-- What the audit wrote down, held against the promises: a row for each, with how often it was broken.
select finding, count
from (
    -- Ticks for which more than one transaction was committed.
    select 'ticks done twice', count(*) from (
        select from audit.rounds where scheduled group by tick_at having count(*) > 1
    ) as twice
    union all
    -- Rounds that began to write before another one had ended: two that held the lock.
    select 'rounds at the same time', count(*) from (
        select min(begins.at) as began, lag(max(rounds.at)) over (order by min(begins.at)) as before_ended
        from audit.begins join audit.rounds using (transaction_id) group by transaction_id
    ) as rounds
    where began < before_ended
    union all
    -- Transactions that did not do all three of a round's writes, each once.
    select 'half rounds', count(*)
    from (select transaction_id, count(*) as renewals from audit.renewals group by 1) as renewals
    full join (select transaction_id, count(*) as choices from audit.choices group by 1) as choices using (transaction_id)
    full join (select transaction_id, count(*) as rounds from audit.rounds group by 1) as rounds using (transaction_id)
    where (renewals, choices, rounds) is distinct from (1, 1, 1)
    union all
    -- Those whose users do not qualify, or are too few.
    select 'rounds with wrong users', count(*) from audit.choices where not good
    union all
    -- Users whom a round left out or gave another time than its own, and users who are not of the last round.
    select 'users left out',
        (select coalesce(sum(stale + (select count(*) from users) - renewed), 0) from audit.renewals)
            + (select count(*) from users where updated_at < (select max(started_at) from rounds))
    union all
    -- Queries that do not go on exactly where the one before ended, or go back in time.
    select 'errors in the chain', count(*) from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before from audit.queries
    ) as queries
    where previous_at is distinct from before or queried_at < previous_at
) as findings (finding, count)
