-- Reads the users to show. `settings` has one row, so the cost depends neither on the minimum nor on
-- the number of users. `users` is not read, so stale statistics or a lock on it can't delay an answer.
--
-- The points are compared with the minimum again. So a user that does not qualify is never shown,
-- even if a worker of an older release or an operator wrote the row.
--
-- A worker of the previous release writes only the columns of ids and points. If `shown_users` does
-- not agree with them, it is older, and the columns count. The next release drops them. The first
-- branch has the same result as the second, without jsonpath, which is slower.
select
    case
        when is_current and least(first_points, second_points) > min_points then shown_users
        else jsonb_path_query_array(
            case
                when is_current then shown_users
                else jsonb_build_array(
                    jsonb_build_object('id', first_user_id, 'points', first_points),
                    jsonb_build_object('id', second_user_id, 'points', second_points)
                )
            end,
            '$[*] ? (@.points > $min_points)',
            jsonb_build_object('min_points', min_points)
        )
    end as users
from settings
cross join lateral (
    select (
        (shown_users -> 0 -> 'id')::bigint, (shown_users -> 0 -> 'points')::integer,
        (shown_users -> 1 -> 'id')::bigint, (shown_users -> 1 -> 'points')::integer
    ) is not distinct from (first_user_id, first_points, second_user_id, second_points) as is_current
) as agreement
