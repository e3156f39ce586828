-- Reads when the transaction started, and the fence: the newest round that was done for a tick, if
-- there is one. A tick further ahead than $1 seconds does not count. Ahead of the clock, not of the
-- transaction's start: a worker that was paused must see the round that was done meanwhile.
--
-- A volatile function cannot be an index condition, but the result of a subselect can. So the clock
-- is read in one.
select now() as "transaction_started_at!",
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
