-- What `verify` has seen, checkerd by the last leader: prints a table of the failures, and writes whatever was not as
-- promised to the file "complaints". It reads the files "failures", "answers" and "writes" in the current folder, whose
-- times are seconds; the variable "findings" is the query of deploy/dev/testkit's checker.

create temp table failures (
    began numeric, name text, answered bigint, refused bigint, other bigint,
    -- When the next one began.
    ended numeric
);
\copy failures (began, name, answered, refused, other) from 'failures'
update failures
set ended = coalesce((select min(next.began) from failures as next where next.began > failures.began), 'infinity');

create temp table answers (
    asked numeric, answered numeric, body text, status integer, type text, timestamp text, users jsonb
);
\copy answers (asked, answered, body, status, type) from 'answers'
update answers set timestamp = body::jsonb->>'timestamp', users = body::jsonb->'users' where status = 200;

create temp table writes (number integer, acknowledged numeric, node text);
\copy writes from 'writes'

create temp view write_pauses as
select acknowledged as over, acknowledged - lag(acknowledged) over (order by acknowledged) as pause from writes;
create temp view answer_pauses as
select answered as over, answered - lag(answered) over (order by answered) as pause from answers where status = 200;

-- The leader serves again from the end of the longest pause between acknowledged writes, and it is answered again from
-- the end of that between answers. Less than a second is no pause.
create temp view outcomes as
select failures.*, served, answered_again, silence, late
from failures
left join lateral (
    select over as served from write_pauses
    where over between began and ended and pause >= 1 order by pause desc limit 1
) as by_writes on true
left join lateral (
    select over as answered_again, pause as silence from answer_pauses
    where over between began and ended and pause >= 1 order by pause desc limit 1
) as by_answers on true
-- The first tick that was due when the leader served again.
left join lateral (
    select extract(epoch from finished_at - tick_at) as late
    from rounds where tick_at >= to_timestamp(coalesce(served, began)) order by tick_at limit 1
) as next_tick on true;

create temp view findings as :findings;

\pset tuples_only off
\pset format aligned
\pset footer off
select
    name as "failure",
    round(served - began, 1) as "writes again after, s",
    round(answered_again - began, 1) as "answers again after, s",
    round(late, 1) as "next tick done after, s",
    answered as "answers",
    refused as "503",
    other as "wrong"
from outcomes order by began;

select
    (select count(*) from audit.rounds where scheduled) as "ticks done",
    (select count(*) from audit.queries) as "queries of the chain",
    (select count(*) from answers where status = 200) as "answers checked",
    (select count(*) from writes) as "acknowledged writes checked";

\pset tuples_only on
\pset format unaligned
\o complaints
select count || ' ' || what
from (
    -- Where answers paused for less, they did not come later than that either.
    select 'times answered again more than 3 s after the leader served again', count(*) from outcomes
    where silence > 3 and answered_again > coalesce(served, began) + 3
    union all
    select 'times next tick not done within 3 s', count(*) from outcomes where coalesce(late > 3, true)
    union all
    select 'failures without an answer under load', count(*) from failures where answered = 0
    union all
    select 'responses that are neither an answer nor a 503 of a replica', sum(other) from failures
    union all
    select 'such responses to the client that takes notes', count(*) from answers
    where status <> 200 and (status, type) is distinct from (503, 'application/problem+json')
    union all
    select 'acknowledged writes lost', count(*) from writes where number not in (select number from audit.writes)
    union all
    select 'answers whose time goes back', count(*)
    from (select timestamp, max(timestamp) over (order by asked) as latest from answers where status = 200) as times
    where timestamp < latest
    union all
    select 'answers with a time at which no query was answered', count(*) from answers
    where timestamp not in (select to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') from audit.queries)
    union all
    select 'answers with users of no round, or of an older one than the answer before', count(*)
    from (
        select last, max(first) over (order by asked) as latest
        from answers
        left join (
            select users, min(number) as first, max(number) as last from audit.choices group by users
        ) as rounds using (users)
        where status = 200
    ) as chosen
    where last is null or last < latest
    -- And what the checker of deploy/dev/testkit asks.
    union all
    select finding, count from findings
) as complaints (what, count)
where count is distinct from 0;
