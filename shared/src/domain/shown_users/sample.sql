-- Draws two users from those that qualify ($1 is the minimum). Returns fewer if fewer than two of
-- a thousand random ids qualify: then only a scan finds them.
--
-- Every CTE is materialized: on a Citus cluster, a part that reads the distributed table `users`
-- must be a query of its own.
--
-- The lowest and the highest id, read from the two ends of the index.
with bounds as materialized (
    select min(id) as lowest, max(id) as highest from users
),
-- Random ids between the bounds. Ids that don't exist or don't qualify drop out below, so every
-- qualifying user is equally likely even if the ids have gaps. If one user in a hundred qualifies,
-- about ten of these ids remain.
drawn as materialized (
    select nth, lowest + floor(random() * (highest - lowest + 1))::bigint as id
    from bounds, generate_series(1, 1000) as nth
),
-- The drawn users that qualify. Looked up by an array of ids, so that stale statistics cannot lead
-- the planner to a full scan. (A lateral lookup with a limit does that too, but not on a
-- distributed table.)
qualifying as materialized (
    select id, points from users where id = any (array(select id from drawn)) and points > $1
)
-- The first two in drawing order. An id that was drawn twice counts at its first place.
select id as "id!", points as "points!"
from qualifying
join drawn using (id)
group by id, points
order by min(nth)
limit 2
