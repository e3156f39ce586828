-- Reads the users to show. A table of one row: the cost depends neither on the minimum nor on the
-- number of users. `users` is not read, so stale statistics or a lock on it cannot delay an answer.
--
-- The points are compared again, so that no user is shown that does not qualify, whatever wrote the
-- row: a worker of an older release, or an operator.
--
-- A worker of the release before writes the columns only, not `shown_users`. So the columns count
-- where both differ; also where fewer than two users qualify, which is rare. This release is the
-- last with such columns.
select
    case
        when least(first_points, second_points) > min_points
            and (shown_users -> 0 -> 'id')::bigint = first_user_id
            and (shown_users -> 0 -> 'points')::integer = first_points
            and (shown_users -> 1 -> 'id')::bigint = second_user_id
            and (shown_users -> 1 -> 'points')::integer = second_points
        then shown_users
        else jsonb_path_query_array(
            jsonb_build_array(
                jsonb_build_object('id', first_user_id, 'points', first_points),
                jsonb_build_object('id', second_user_id, 'points', second_points)
            ),
            '$[*] ? (@.points > $min_points)',
            jsonb_build_object('min_points', min_points)
        )
    end as users
from settings
