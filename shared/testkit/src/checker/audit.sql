-- The checker's data: triggers record every committed change of the tables.

create schema audit;

-- The writes of rounds: `users` when its update begins, and `settings` and `rounds` for each row. By
-- the first of them a round holds the worker's lock.
create table audit.writes (
    number bigserial primary key,
    transaction_id xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp(),
    table_name name not null,
    -- Of `settings`: the users that the round chose, in the format of an answer.
    users jsonb,
    -- Of `rounds`.
    tick_at timestamptz
);
-- The moves of the chain. Each message of a replica makes one, for all queries that it answers.
create table audit.moves (
    -- Assigned while the row of last_query is locked, so it is the order of the chain.
    number bigserial primary key,
    previous_at timestamptz,
    queried_at timestamptz not null,
    -- The last committed write of `settings`, in a snapshot taken after the row was locked; 0 before
    -- the first.
    choice bigint not null
);

create function audit.write() returns trigger language plpgsql security definer as $$
declare
    users jsonb;
    tick_at timestamptz;
begin
    if tg_table_name = 'settings' then
        select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
        into users
        from public.users
        where new.shown_users @> jsonb_build_array(jsonb_build_object('id', id))
          and points > new.min_points;
    elsif tg_table_name = 'rounds' then
        tick_at := new.tick_at;
    end if;
    insert into audit.writes (table_name, users, tick_at) values (tg_table_name, users, tick_at);
    return null;
end
$$;
create trigger audit before update on users
    for each statement execute function audit.write();
create trigger audit after update on settings
    for each row execute function audit.write();
create trigger audit after insert or update on rounds
    for each row execute function audit.write();

-- Gives each move a second of its own. Answers show seconds, so each tells its place in the chain.
-- A time that goes back is left as it is, so that the checker finds it.
create function audit.move() returns trigger language plpgsql security definer as $$
begin
    if old.queried_at is null then
        new.queried_at := '2000-01-01 00:00:00Z';
    elsif new.queried_at >= old.queried_at then
        new.queried_at := old.queried_at + interval '1 second';
    end if;
    insert into audit.moves (previous_at, queried_at, choice)
    select new.previous_at, new.queried_at, coalesce(max(number), 0)
    from audit.writes where table_name = 'settings';
    return new;
end
$$;
create trigger audit before update on last_query
    for each row execute function audit.move();
