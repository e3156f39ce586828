-- Reads the database's time, and the newest round that was done for a tick, if there is one. A tick
-- further ahead than $1 seconds does not count. Ahead of the clock, not of the transaction's begin:
-- a worker that was paused must meet the round that was done meanwhile.
select now() as "now!",
       tick_at as "tick_at?",
       started_at as "started_at?",
       finished_at as "finished_at?",
       users_updated as "users_updated?"
from (values (true)) as one_row
left join (
    select * from rounds
    where scheduled and tick_at <= (select clock_timestamp()) + make_interval(secs => $1)
    order by tick_at desc
    limit 1
) as last on true
