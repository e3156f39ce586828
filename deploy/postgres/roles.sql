-- The three roles of Max Two. Run it as a superuser, once per server, before you create the
-- database. It can be repeated. The roles have no passwords: set them with `\password`, or
-- authenticate them in another way.
--
-- The connection limits add up to the 97 that a server with default settings offers to roles other
-- than superusers, so no role can use up another's. A limit that you change is kept
-- (`alter role max_two_api connection limit 200`).

do $$
begin
    -- Owns the database, migrates and seeds it.
    if to_regrole('max_two_owner') is null then
        create role max_two_owner login connection limit 5;
    end if;
    -- Does the rounds: one connection per worker, and one more while it cancels a round.
    if to_regrole('max_two_worker') is null then
        create role max_two_worker login connection limit 12;
    end if;
    -- Answers queries: one connection per replica.
    if to_regrole('max_two_api') is null then
        create role max_two_api login connection limit 80;
    end if;
end
$$;

-- Defaults for sessions of these roles that do not set them. The programs set the same, and two
-- more (shared/src/db/session.rs, with the reasons). They prevail over the defaults of the database
-- and the server: what the statements rely on, and timeouts that make the server end a session, and
-- free its locks, when its client is gone, unreachable or stopped.
do $$
declare
    program text;
    setting record;
begin
    foreach program in array array['max_two_worker', 'max_two_api'] loop
        for setting in
            select *
            from (values
                ('default_transaction_isolation', 'read committed'),
                ('row_security', 'off'),
                ('statement_timeout', '0'),
                ('idle_session_timeout', '0'),
                -- Since Postgres 17.
                ('transaction_timeout', '0'),
                ('client_min_messages', 'warning'),
                ('jit', 'off'),
                ('client_connection_check_interval', '2s'),
                ('tcp_keepalives_idle', '5'),
                ('tcp_keepalives_interval', '2'),
                ('tcp_keepalives_count', '3'),
                ('tcp_user_timeout', '10s'),
                ('lock_timeout', '5s')
            ) as settings (name, value)
            where name in (select pg_settings.name from pg_settings)
        loop
            execute format('alter role %I set %I = %L', program, setting.name, setting.value);
        end loop;
        -- The programs ask for this one in each session. As a default it would also hold for the
        -- sessions that a Citus coordinator opens with its nodes: a node that has renewed its users
        -- waits inside the transaction for the slowest one.
        execute format('alter role %I reset idle_in_transaction_session_timeout', program);
    end loop;
end
$$;
