-- The three roles of Max Two. Run it as a superuser or as a role with CREATEROLE, once per server,
-- before you create the database. It can be repeated. The roles have no passwords: set them with
-- `\password`, or authenticate them in another way.
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
    -- Does the rounds: one connection per worker, and one more for an operator's round.
    if to_regrole('max_two_worker') is null then
        create role max_two_worker login connection limit 12;
    end if;
    -- Answers queries: one connection per replica.
    if to_regrole('max_two_api') is null then
        create role max_two_api login connection limit 80;
    end if;
end
$$;

-- The programs' sessions set all that they rely on by themselves (shared/src/db/session.rs), and
-- prevail over defaults. These are for sessions that no program can set: those that a Citus
-- coordinator opens with its nodes. They end, and free their locks, when the coordinator is gone or
-- unreachable.
alter role max_two_worker set client_connection_check_interval = '2s';
alter role max_two_worker set tcp_keepalives_idle = 5;
alter role max_two_worker set tcp_keepalives_interval = 2;
alter role max_two_worker set tcp_keepalives_count = 3;
alter role max_two_worker set tcp_user_timeout = '10s';
alter role max_two_worker set lock_timeout = '5s';
alter role max_two_worker set jit = off;
