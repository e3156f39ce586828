-- Reads when the transaction started, and the fence: the newest scheduled round, if there is one.
--
-- If that is more than $1 seconds ahead of the clock, the clock was wrong: then ticks ahead of the
-- clock do not count. This compares with `clock_timestamp()`, not `now()`: a paused worker's
-- transaction may have started before the round that it must see.
select now() as "transaction_started_at!",
       tick_at as "tick_at?",
       finished_at as "finished_at?"
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
