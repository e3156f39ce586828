-- Moves the chain of queries on by one; whoever does it at the same time waits here, and goes on from where we left it.
-- `only_row` is true of the one row. It lets the planner use the key, which leads past the pages of dead versions that a
-- long transaction leaves behind; a plan made before that changes with the next vacuum.
with queried as (
    update last_query
    set previous_at = queried_at,
        queried_at = greatest(clock_timestamp(), queried_at)
    where only_row
    returning previous_at, queried_at
)
-- Two tables of one row each, whatever the minimum is and however many users there are. The users themselves are not
-- read: neither a plan that trusts wrong statistics nor somebody's lock on them can keep an answer waiting.
select
    queried.previous_at                                        as "previous_at?",
    queried.queried_at                                         as "queried_at!",
    case when first_points > min_points then first_user_id end as "first_id?",
    first_points                                               as "first_points?",
    case when second_points > min_points then second_user_id end as "second_id?",
    second_points                                              as "second_points?"
from queried
cross join settings
