-- Reads the users to show. `settings` has one row, so the cost depends neither on the minimum nor on
-- the number of users. `users` is not read, so stale statistics or a lock on it can't delay an answer.
--
-- The points are compared with the minimum again. So a user that does not qualify is never shown,
-- even if an operator wrote the row.
select jsonb_path_query_array(
    shown_users,
    '$[*] ? (@.points > $min_points)',
    jsonb_build_object('min_points', min_points)
) as users
from settings
