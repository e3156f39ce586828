-- Compares the audit, and the clients' answers, with the promises. Returns each kind of violation
-- that there is, how often, and an example.
--
-- $1 are the bodies of all answers, each with the moments at which its request was sent and at which
-- it was received. Moments are numbered in their order.
with answers as materialized (
    select (body ->> 'sent_at')::bigint as sent_at, (body ->> 'received_at')::bigint as received_at,
           body -> 'users' as users, coalesce(body ->> 'timestamp', '') as timestamp, answer
    from unnest($1::jsonb[]) with ordinality as bodies (body, answer)
),
-- The users that rounds chose. Before the first choice, number 0, there are none.
choices as materialized (
    select number, users from audit.writes where table_name = 'settings' union all select 0, '[]'
),
-- Which choices an answer with this timestamp may show. A move reads its users after the audit has
-- noted its `choice`, and before the next move gets the row. So they are of its choice, of the next
-- move's, or of one in between. Two moves share a timestamp: it is in all answers of a move but the
-- first, and in the first answer of the next move.
places as (
    select coalesce(to_char(at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'), '') as timestamp,
           min(choice) as first_choice, max(last_choice) as last_choice
    from (
        select previous_at, queried_at, choice,
               lead(choice, 1, (select max(number) from choices)) over (order by number) as last_choice
        from audit.moves
    ) as moves
    cross join lateral (values (previous_at), (queried_at)) as times (at)
    group by 1
),
-- Each answer with what the audit knows of its users and of its timestamp.
placed as materialized (
    select *
    from answers
    left join (
        select users, min(number) as oldest, max(number) as newest from choices group by users
    ) as chosen using (users)
    left join places using (timestamp)
),
-- The latest timestamp and choice among the answers received before each request was sent.
earlier as (
    select answer, max(received_timestamp) over received as timestamp, max(received_choice) over received as choice
    from (
        select sent_at as at, answer, null as received_timestamp, null as received_choice from placed
        union all
        select received_at, null, timestamp collate "C", oldest from placed
    ) as moments
    window received as (order by at range between unbounded preceding and 1 preceding)
),
violations (violation, example) as (
    select 'a tick was done twice', tick_at::text
    from audit.writes group by tick_at having count(tick_at) > 1
    union all
    -- The writes of a round began before the previous round had ended: two held the lock at once.
    select 'two rounds ran at the same time', began::text
    from (
        select min(at) as began, lag(max(at)) over (order by min(at)) as before_ended
        from audit.writes group by transaction_id
    ) as rounds
    where began < before_ended
    union all
    -- A transaction did not do each of a round's three writes once.
    select 'a round is incomplete', transaction_id::text
    from audit.writes group by transaction_id
    having array_agg(table_name order by number) <> '{users,settings,rounds}'
    union all
    -- The trigger makes moves a second apart, unless a time goes back.
    select 'the chain has a fork or a step back', queried_at::text
    from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before from audit.moves
    ) as moves
    where previous_at is distinct from before or queried_at < before + interval '1 second'
    union all
    select 'several answers are the very first', users::text
    from (select users, count(*) over () from answers where timestamp = '') as first
    where count > 1
    union all
    select 'an answer has an earlier time than one before it', placed.timestamp
    from placed join earlier using (answer) where placed.timestamp collate "C" < earlier.timestamp
    union all
    select 'an answer has users of an older round than one before it', users::text
    from placed join earlier using (answer) where newest < choice
    union all
    -- Its time is that of no query, or its users are not those of its place in the chain.
    select 'an answer has no place in the chain', timestamp || ' ' || users
    from placed
    where not exists (
        select from choices where choices.users = placed.users and number between first_choice and last_choice
    )
)
select violation, count(*), min(example) from violations group by violation order by violation
