-- What patroni.sh has recorded, checked in the last leader's database: prints a table of the
-- injected failures, and writes every broken promise to the file "violations". Reads the files
-- "failures", "responses" and "writes" in the current folder, whose times are seconds. The variable
-- "findings" is the query of shared/testkit's checker.

create temp table failures (
    began numeric, name text, ok bigint, refused bigint, wrong bigint,
    -- When the next one began.
    ended numeric
);
\copy failures (began, name, ok, refused, wrong) from 'failures'
update failures
set ended = coalesce((select min(next.began) from failures as next where next.began > failures.began), 'infinity');

create temp table responses (
    sent numeric, received numeric, body text, status integer, type text, timestamp text, users jsonb
);
\copy responses (sent, received, body, status, type) from 'responses'
update responses set timestamp = body::jsonb->>'timestamp', users = body::jsonb->'users' where status = 200;

-- The answers. An answer's place in the chain allows the choices from first_choice to last_choice.
-- `first` and `last` are the first and the last of these that chose the answer's users.
create temp table answers as
select responses.*, first_choice, first, last
from responses
left join audit.places on places.timestamp = coalesce(responses.timestamp, '')
left join lateral (
    select min(number) as first, max(number) as last from audit.choices
    where number between first_choice and last_choice and choices.users = responses.users
) as shown on true
where status = 200;

create temp table writes (number integer, acknowledged numeric, node text);
\copy writes from 'writes'

create temp view write_pauses as
select acknowledged as over, acknowledged - lag(acknowledged) over (order by acknowledged) as pause from writes;
create temp view response_pauses as
select received as over, received - lag(received) over (order by received) as pause from responses where status = 200;

-- The leader is available again at the end of the longest pause between acknowledged writes, and
-- the service at the end of the longest pause between responses. Less than a second is no pause.
create temp view outcomes as
select failures.*, writes_again, responds_again, response_pause, late
from failures
left join lateral (
    select over as writes_again from write_pauses
    where over between began and ended and pause >= 1 order by pause desc limit 1
) as by_writes on true
left join lateral (
    select over as responds_again, pause as response_pause from response_pauses
    where over between began and ended and pause >= 1 order by pause desc limit 1
) as by_responses on true
-- The first tick that was due once the leader was available again.
left join lateral (
    select extract(epoch from finished_at - tick_at) as late
    from rounds where tick_at >= to_timestamp(coalesce(writes_again, began)) order by tick_at limit 1
) as next_tick on true;

create temp view findings as :findings;

\pset tuples_only off
\pset format aligned
\pset footer off
select
    name as "failure",
    round(writes_again - began, 1) as "writes again after, s",
    round(responds_again - began, 1) as "responses again after, s",
    round(late, 1) as "next tick done after, s",
    ok as "200",
    refused as "503",
    wrong as "wrong"
from outcomes order by began;

select
    (select count(*) from audit.rounds where scheduled) as "ticks done",
    (select count(*) from audit.moves) as "moves of the chain",
    (select count(*) from responses where status = 200) as "responses checked",
    (select count(*) from writes) as "acknowledged writes checked";

\pset tuples_only on
\pset format unaligned
\o violations
select count || ' ' || what
from (
    -- A pause of 3 s or less ended in time, or began after the leader was available again.
    select 'failures with responses later than 3 s after the leader was available again', count(*) from outcomes
    where response_pause > 3 and responds_again > coalesce(writes_again, began) + 3
    union all
    select 'failures whose next tick was not done within 3 s', count(*) from outcomes where coalesce(late > 3, true)
    union all
    select 'failures without a 200 under load', count(*) from failures where ok = 0
    union all
    select 'responses to wrk that are neither a 200 nor a 503 of a replica', sum(wrong) from failures
    union all
    select 'responses to the recording client that are neither', count(*) from responses
    where status <> 200 and (status, type) is distinct from (503, 'application/problem+json')
    union all
    select 'acknowledged writes lost', count(*) from writes where number not in (select number from audit.writes)
    union all
    select 'responses with a timestamp before an earlier one', count(*)
    from (select timestamp, max(timestamp) over (order by sent) as latest from responses where status = 200) as times
    where timestamp < latest
    union all
    select 'responses with a timestamp that is no query''s', count(*) from answers where first_choice is null
    union all
    select 'responses with users of another round than that of their place in the chain', count(*) from answers
    where first_choice is not null and first is null
    union all
    select 'responses with users of an older round than a response before', count(*)
    from (select last, max(first) over (order by sent) as latest from answers) as chosen
    where last < latest
    -- And what the checker of shared/testkit finds.
    union all
    select finding, count from findings
) as violations (what, count)
where count is distinct from 0;
