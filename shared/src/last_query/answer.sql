-- Moves the chain of queries on by one. A concurrent query waits here for the row's lock, and then
-- continues from the committed row.
--
-- `only_row` is true in the only row. It lets the planner use the primary key, which skips the
-- pages of dead row versions that a long transaction leaves behind. A plan from before those pages
-- existed is replaced after the next vacuum.
with queried as (
    update last_query
    set previous_at = queried_at,
        queried_at = greatest(clock_timestamp(), queried_at)
    where only_row
    returning previous_at, queried_at
)
-- Two tables of one row each: the cost depends neither on the minimum nor on the number of users.
-- `users` is not read, so stale statistics or a lock on it cannot delay an answer.
select
    queried.previous_at                                        as "previous_at?",
    queried.queried_at                                         as "queried_at!",
    case when first_points > min_points then first_user_id end as "first_id?",
    first_points                                               as "first_points?",
    case when second_points > min_points then second_user_id end as "second_id?",
    second_points                                              as "second_points?"
from queried
cross join settings
