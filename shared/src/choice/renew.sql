-- Draws two qualifying users ($1 is the new minimum) and stores them with the minimum.
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
),
-- The first two in drawing order. An id that was drawn twice counts at its first place.
sampled as materialized (
    select qualifying.id, qualifying.points
    from qualifying
    join drawn using (id)
    group by qualifying.id, qualifying.points
    order by min(drawn.nth)
    limit 2
),
-- A full scan, only if the sample has fewer than two: there are few users, or hardly any qualify.
scanned as materialized (
    select id, points
    from users
    where points > $1 and (select count(*) from sampled) < 2
    order by random()
    limit 2
),
chosen as materialized (
    select id, points from sampled where (select count(*) from sampled) = 2
    union all
    select id, points from scanned
),
pair as materialized (
    select array_agg(id order by id) as ids, array_agg(points order by id) as points from chosen
)
update settings
set min_points = $1,
    first_user_id = pair.ids[1],
    first_points = pair.points[1],
    second_user_id = pair.ids[2],
    second_points = pair.points[2]
from pair
