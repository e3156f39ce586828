-- The privileges of each role. Run it in the database after every migration: the first time as a
-- superuser, later as the owner if you like. It is one transaction and can be repeated at any time;
-- running programs keep their privileges.

begin;

revoke all on all tables in schema public from public, max_two_worker, max_two_api;

grant select on settings, last_query to max_two_api;
grant update (previous_at, queried_at) on last_query to max_two_api;

grant select on users, settings, rounds to max_two_worker;
grant update (points, updated_at) on users to max_two_worker;
grant update (min_points, first_user_id, first_points, second_user_id, second_points)
    on settings to max_two_worker;
grant insert, delete on rounds to max_two_worker;

-- By default every role may take advisory locks, and could hold the worker's lock. The owner needs
-- them to migrate. Only a superuser can change this; without one, the other grants still apply.
do $$
declare
    lock regprocedure;
begin
    for lock in
        select oid from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace and proname like 'pg%advisory%'
    loop
        execute format('revoke execute on function %s from public', lock);
        execute format('grant execute on function %s to max_two_owner, max_two_worker', lock);
    end loop;
exception
    when insufficient_privilege then
        raise warning 'every role can still take advisory locks: only a superuser can revoke that';
end
$$;

commit;
