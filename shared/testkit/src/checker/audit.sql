-- The checker's data: triggers record every committed change of the tables.

create schema audit;

-- When a transaction began to write users. By then a round holds the worker's lock.
create table audit.begins (
    transaction_id xid8 not null,
    at timestamptz not null default clock_timestamp()
);
create table audit.renewals (
    transaction_id xid8 not null,
    renewed bigint not null,
    -- Users that did not get the time of their round.
    stale bigint not null
);
create table audit.choices (
    number bigserial primary key,
    transaction_id xid8 not null,
    -- The chosen users, in the format of an answer.
    users jsonb not null,
    -- Whether all of them qualify, and there are as many as qualify, up to two.
    valid boolean not null
);
create table audit.rounds (
    transaction_id xid8 not null,
    tick_at timestamptz not null,
    scheduled boolean not null,
    at timestamptz not null default clock_timestamp()
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

-- The choices whose users an answer with this timestamp may show: those of its place in the chain.
-- A move's users are read after its choice was, and before the next move gets the row. So they are
-- of this move's choice, of the next move's, or of one in between. Two moves have a timestamp in
-- common: it is in all answers of a move except the first, and in the first answer of the next
-- move. The very first answer has none, which is the empty text here.
create view audit.places as
select
    coalesce(to_char(at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'), '') as timestamp,
    min(choice) as first_choice,
    max(last_choice) as last_choice
from (
    select
        previous_at, queried_at, choice,
        lead(choice, 1, (select coalesce(max(number), 0) from audit.choices)) over (order by number) as last_choice
    from audit.moves
) as moves
cross join lateral (values (previous_at), (queried_at)) as times (at)
group by at;

create function audit.begin() returns trigger language plpgsql security definer as $$
begin
    insert into audit.begins values (pg_current_xact_id());
    return null;
end
$$;
create trigger audit_begin before update on users
    for each statement execute function audit.begin();

create function audit.renewal() returns trigger language plpgsql security definer as $$
begin
    insert into audit.renewals
    select pg_current_xact_id(), count(*), count(*) filter (where updated_at <> now())
    from renewed;
    return null;
end
$$;
create trigger audit after update on users
    referencing new table as renewed for each statement execute function audit.renewal();

create function audit.choice() returns trigger language plpgsql security definer as $$
begin
    insert into audit.choices (transaction_id, users, valid)
    select
        pg_current_xact_id(),
        coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]'),
        coalesce(bool_and(points > new.min_points), true)
            and count(*) = (select count(*) from (select from public.users where points > new.min_points limit 2) as two)
    from public.users
    where id in (new.first_user_id, new.second_user_id);
    return null;
end
$$;
create trigger audit after update on settings
    for each row execute function audit.choice();

create function audit.round() returns trigger language plpgsql security definer as $$
begin
    insert into audit.rounds (transaction_id, tick_at, scheduled) values (pg_current_xact_id(), new.tick_at, new.scheduled);
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
