-- Reads the two users to show. A table of one row: the cost depends neither on the minimum nor on
-- the number of users. `users` is not read, so stale statistics or a lock on it cannot delay an
-- answer.
--
-- The points are compared again, so that no user is shown that does not qualify, whatever wrote the
-- row: a worker of an older release, or an operator.
select
    case when first_points > min_points then first_user_id end as first_id,
    first_points,
    case when second_points > min_points then second_user_id end as second_id,
    second_points
from settings
