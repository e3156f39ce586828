-- Each step is materialized: where the users are spread over nodes, whatever reads them must be a query of its own.
--
-- The lowest and the highest id: both ends of the index.
with bounds as materialized (
    select min(id) as lowest, max(id) as highest from users
),
-- Ids drawn from all that could exist; the ones that don't exist or don't qualify drop out below, which leaves every
-- qualifying user equally likely, gaps between the ids or not. With one user in a hundred qualifying, ten are left.
drawn as materialized (
    select nth, lowest + floor(random() * (highest - lowest + 1))::bigint as id
    from bounds, generate_series(1, 1000) as nth
),
-- Looked up by their ids as an array, so that no statistics can talk the planner into reading the whole table. (A
-- lateral lookup with a limit does that, too, but not where the table is spread over nodes.)
found as materialized (
    select id, points from users where id = any (array(select id from drawn)) and points > $1
),
-- The first two in the order in which they were drawn; an id that was drawn twice counts where it came first.
sampled as materialized (
    select found.id, found.points
    from found
    join drawn using (id)
    group by found.id, found.points
    order by min(drawn.nth)
    limit 2
),
-- Few users, or nearly none that qualify: then, and only then, all of them are looked at.
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
shown as materialized (
    select array_agg(id order by id) as ids, array_agg(points order by id) as points from chosen
)
update settings
set min_points = $1,
    first_user_id = shown.ids[1],
    first_points = shown.points[1],
    second_user_id = shown.ids[2],
    second_points = shown.points[2]
from shown
