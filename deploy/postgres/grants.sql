-- The privileges of each role. Run it in the database with every release, after its migrations: the
-- first time as a superuser if you can, later as the owner if you like. It is one transaction and can
-- be repeated at any time; running programs keep their privileges.

begin;

-- These tables only: others in the schema are not ours.
revoke all on users, settings, rounds, last_query, _sqlx_migrations
    from public, max_two_worker, max_two_api;

grant select on settings, last_query to max_two_api;
grant update (previous_at, queried_at) on last_query to max_two_api;

grant select on users, settings, rounds to max_two_worker;
-- It warns if the last query's time is ahead of the clock.
grant select (queried_at) on last_query to max_two_worker;
grant update (points, updated_at) on users to max_two_worker;
-- Until the next release, a worker may be of the previous one, which writes the columns after
-- `shown_users`.
grant update (
    min_points, shown_users, first_user_id, first_points, second_user_id, second_points
) on settings to max_two_worker;
grant insert, delete on rounds to max_two_worker;

-- By default PUBLIC has these two, and a hardened server revokes them.
do $$
declare
    tables regnamespace := (select relnamespace from pg_class where oid = 'users'::regclass);
begin
    execute format('grant connect on database %I to max_two_worker, max_two_api', current_database());
    execute format('grant usage on schema %s to max_two_worker, max_two_api', tables);
end
$$;

-- By default every role may take advisory locks, and could hold the worker's lock. The owner needs
-- them to migrate. Only a superuser can change this; without one, the other grants still apply.
do $$
declare
    lock regprocedure;
begin
    -- The functions belong to the superuser that created the server. A grant by another role fails
    -- with a warning for each function.
    if not (
        select pg_has_role(proowner, 'usage')
        from pg_proc where oid = 'pg_advisory_lock(bigint)'::regprocedure
    ) then
        if has_function_privilege('max_two_api', 'pg_advisory_lock(bigint)', 'execute') then
            raise warning 'every role can still take advisory locks: only a superuser can revoke that';
        end if;
        return;
    end if;
    for lock in
        select oid from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace and proname like 'pg%advisory%'
    loop
        execute format('revoke execute on function %s from public', lock);
        execute format('grant execute on function %s to max_two_owner, max_two_worker', lock);
    end loop;
end
$$;

commit;
