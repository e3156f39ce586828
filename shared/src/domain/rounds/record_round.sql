-- Records the scheduled round of the tick $1, or an operator's round if $1 is null. The clock is read
-- in subselects, because a volatile function can't be an index condition.
--
-- Deletes rows older than a week, but never the fence.
with expired as (
    delete from rounds
    where finished_at < now() - interval '7 days'
      and tick_at < (
          select max(tick_at) from rounds
          where scheduled and tick_at <= (select clock_timestamp())
      )
),
-- If the newest row is more than $3 seconds ahead of the clock, deletes every row that is ahead. Left
-- alone, such a row would become the fence when the clock approaches it, and stop rounds. Only a
-- scheduled round does this, because it is the new fence.
ahead as (
    delete from rounds
    where $1::timestamptz is not null
      and finished_at > (select clock_timestamp())
      and (select max(finished_at) from rounds)
          > (select clock_timestamp()) + make_interval(secs => $3)
    returning finished_at
),
-- The time of the last query, if it is that far ahead. It stays: answers repeat it until the clock has
-- passed it.
last_query_ahead as (
    select queried_at from last_query
    where queried_at > (select clock_timestamp()) + make_interval(secs => $3)
)
insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
values (coalesce($1, now()), $1 is not null, now(), greatest(clock_timestamp(), now()), $2)
returning tick_at, started_at, finished_at,
          greatest(
              (select max(finished_at) from ahead), (select queried_at from last_query_ahead)
          ) as newest_ahead_at
