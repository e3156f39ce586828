-- Moves the chain of queries on by one; whoever does it at the same time waits here, and goes on from where we left it.
with queried as (
    update last_query
    set previous_at = queried_at,
        queried_at = greatest(clock_timestamp(), queried_at)
    returning previous_at, queried_at
)
-- `limit 1` tells the planner what it can't know from statistics: one row. Two look-ups by primary key are all that
-- is left, whatever the minimum is and however many users there are.
select
    queried.previous_at as "previous_at?",
    queried.queried_at  as "queried_at!",
    first.id            as "first_id?",
    first.points        as "first_points?",
    second.id           as "second_id?",
    second.points       as "second_points?"
from (select previous_at, queried_at from queried limit 1) as queried
cross join (select min_points, first_user_id, second_user_id from settings limit 1) as round
left join lateral (
    select id, points from users where id = round.first_user_id and points > round.min_points limit 1
) as first on true
left join lateral (
    select id, points from users where id = round.second_user_id and points > round.min_points limit 1
) as second on true
