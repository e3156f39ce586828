-- Reads when the transaction started, and the fence: the newest round that was done for a tick, if
-- there is one. If the newest is more than $1 seconds ahead of the clock, the clock was wrong: then
-- no tick ahead of it counts. The clock, and not the transaction's start, is the measure: a worker
-- that was paused must see the round that was done meanwhile.
select now() as "transaction_started_at!",
       tick_at as "tick_at?",
       started_at as "started_at?",
       finished_at as "finished_at?",
       users_updated as "users_updated?"
from (values (true)) as one_row
left join (
    select * from rounds
    where scheduled and tick_at <= (
        select case when max(tick_at) > clock_timestamp() + make_interval(secs => $1)
                    then clock_timestamp() else max(tick_at) end
        from rounds where scheduled
    )
    order by tick_at desc
    limit 1
) as last on true
