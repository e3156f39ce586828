-- The checker's data: triggers record every committed change of the tables.

create schema audit;

-- When a transaction began to write users. By then a round holds the worker's lock.
create table audit.renewals (
    transaction_id xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp()
);
-- The users that a transaction chose, in the format of an answer.
create table audit.choices (
    number bigserial primary key,
    transaction_id xid8 not null default pg_current_xact_id(),
    users jsonb not null
);
create table audit.rounds (
    transaction_id xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp(),
    tick_at timestamptz not null
);
-- The moves of the chain. Each message of a replica makes one, for all queries that it answers.
create table audit.moves (
    -- Assigned while the row of last_query is locked, so it is the order of the chain.
    number bigserial primary key,
    previous_at timestamptz,
    queried_at timestamptz not null,
    -- The last committed choice, in a snapshot taken after the row was locked; 0 before the first.
    choice bigint not null
);

create function audit.renewal() returns trigger language plpgsql security definer as $$
begin
    insert into audit.renewals default values;
    return null;
end
$$;
create trigger audit before update on users
    for each statement execute function audit.renewal();

create function audit.choice() returns trigger language plpgsql security definer as $$
begin
    insert into audit.choices (users)
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
    from public.users
    where id in (new.first_user_id, new.second_user_id) and points > new.min_points;
    return null;
end
$$;
create trigger audit after update on settings
    for each row execute function audit.choice();

create function audit.round() returns trigger language plpgsql security definer as $$
begin
    insert into audit.rounds (tick_at) values (new.tick_at);
    return null;
end
$$;
create trigger audit after insert or update on rounds
    for each row execute function audit.round();

-- Gives each move a second of its own. Answers show seconds, so each tells its place in the chain.
-- A time that goes back is left as it is, so that the checker finds it.
create function audit.place() returns trigger language plpgsql security definer as $$
begin
    if old.queried_at is null then
        new.queried_at := '2000-01-01 00:00:00Z';
    elsif new.queried_at >= old.queried_at then
        new.queried_at := old.queried_at + interval '1 second';
    end if;
    return new;
end
$$;
create trigger audit_place before update on last_query
    for each row execute function audit.place();

create function audit.move() returns trigger language plpgsql security definer as $$
begin
    insert into audit.moves (previous_at, queried_at, choice)
    select new.previous_at, new.queried_at, coalesce(max(number), 0) from audit.choices;
    return null;
end
$$;
create trigger audit after update on last_query
    for each row execute function audit.move();
