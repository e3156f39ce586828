-- The lowest and the highest id: both ends of the index.
with bounds as (
    select min(id) as lowest, max(id) as highest from users
),
-- Ids drawn from all that could exist; the ones that don't exist or don't qualify drop out below, which leaves every
-- qualifying user equally likely, gaps between the ids or not. With one user in a hundred qualifying, ten are left.
drawn as materialized (
    select nth, lowest + floor(random() * (highest - lowest + 1))::bigint as id
    from bounds, generate_series(1, 1000) as nth
),
-- Looked up one by one, so that no statistics can talk the planner into reading the whole table. The first two in
-- the order in which they were drawn; an id that was drawn twice counts where it came first.
sampled as materialized (
    select found.id, found.points
    from drawn
    cross join lateral (
        select users.id, users.points from users where users.id = drawn.id and users.points > $1 limit 1
    ) as found
    group by found.id, found.points
    order by min(drawn.nth)
    limit 2
),
-- Few users, or nearly none that qualify: then, and only then, all of them are looked at.
scanned as (
    select id, points
    from users
    where points > $1 and (select count(*) from sampled) < 2
    order by random()
    limit 2
),
chosen as (
    select id, points from sampled where (select count(*) from sampled) = 2
    union all
    select id, points from scanned
),
placed as (
    select id, points, row_number() over (order by id) as place from chosen
)
update settings
set min_points = $1,
    (first_user_id, first_points) = (select id, points from placed where place = 1),
    (second_user_id, second_points) = (select id, points from placed where place = 2)
