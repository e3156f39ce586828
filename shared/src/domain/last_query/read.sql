-- Reads the two users to show. A table of one row: the cost depends neither on the minimum nor on
-- the number of users. `users` is not read, so stale statistics or a lock on it cannot delay an
-- answer.
--
-- The points are compared again, so that no user is shown that does not qualify, whatever wrote the
-- row: a worker of an older release, or an operator.
--
-- A worker of the release before writes the columns only, not `shown_users`. Where these differ, the
-- columns count. This release is the last with such columns.
select
    case when first_points > min_points then
        case when shown_users -> 0 @> first_user then shown_users -> 0 else first_user end
    end as "first: _",
    case when second_points > min_points then
        case when shown_users -> 1 @> second_user then shown_users -> 1 else second_user end
    end as "second: _"
from settings
cross join lateral (
    select jsonb_build_object('id', first_user_id, 'points', first_points) as first_user,
           jsonb_build_object('id', second_user_id, 'points', second_points) as second_user
) as of_columns
