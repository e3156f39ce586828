-- The three roles of Max Two. Run once per server by a superuser, before the database is made; again does no harm.
-- They have no passwords yet: set them with `\password`, or authenticate them in another way.
--
-- However many replicas there are, they leave the others room: of the 100 connections that a server has by default, 3 are
-- a superuser's. A limit that was changed stays (`alter role max_two_api connection limit 200`).

do $$
begin
    -- Owns the database, migrates and seeds it.
    if to_regrole('max_two_owner') is null then
        create role max_two_owner login connection limit 5;
    end if;
    -- Does the rounds: one connection each, one more to stop.
    if to_regrole('max_two_worker') is null then
        create role max_two_worker login connection limit 12;
    end if;
    -- Answers queries: one connection each.
    if to_regrole('max_two_api') is null then
        create role max_two_api login connection limit 80;
    end if;
end
$$;

-- What every session of the programs asks for holds also for one that can't ask: whose client is gone, cut off or
-- stopped frees what it holds. The programs' own settings (shared/src/db.rs) are the same.
do $$
declare
    program text;
    setting record;
begin
    foreach program in array array['max_two_worker', 'max_two_api'] loop
        for setting in
            select *
            from (values
                ('jit', 'off'),
                ('client_connection_check_interval', '2s'),
                ('tcp_keepalives_idle', '5'),
                ('tcp_keepalives_interval', '2'),
                ('tcp_keepalives_count', '3'),
                ('tcp_user_timeout', '10s'),
                ('idle_in_transaction_session_timeout', '8s'),
                ('lock_timeout', '5s')
            ) as settings (name, value)
        loop
            execute format('alter role %I set %I = %L', program, setting.name, setting.value);
        end loop;
    end loop;
end
$$;
