-- What each role may do. Run in the database after every migration: by a superuser, or by the owner, once a superuser has
-- closed the advisory locks (at the end). Again does no harm: whoever is at work keeps what it has.

begin;

revoke all on all tables in schema public from public, max_two_worker, max_two_api;

grant select on users, settings, last_query to max_two_api;
grant update (previous_at, queried_at) on last_query to max_two_api;

grant select on users, settings, rounds to max_two_worker;
grant update (points, updated_at) on users to max_two_worker;
grant update (min_points, first_user_id, first_points, second_user_id, second_points) on settings to max_two_worker;
grant insert, delete on rounds to max_two_worker;

-- Advisory locks are open to everybody by default: whoever reaches the database could hold the worker's lock. The owner
-- needs them to migrate. Where the server lets nobody change this, the rest holds all the same.
do $$
declare
    lock regprocedure;
begin
    for lock in
        select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace and proname like 'pg%advisory%'
    loop
        execute format('revoke execute on function %s from public', lock);
        execute format('grant execute on function %s to max_two_owner, max_two_worker', lock);
    end loop;
exception
    when insufficient_privilege then
        raise warning 'advisory locks stay open to every role: only a superuser can change that';
end
$$;

commit;
