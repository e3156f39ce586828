-- The users. Every round rewrites all of them, and the table's storage is chosen for that alone.

create table users (
    id          bigint      not null,
    inserted_at timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    points      integer     not null default 0,
    constraint users_pkey primary key (id),
    constraint users_id_is_positive check (id > 0),
    constraint users_points_are_0_to_100 check (points between 0 and 100)
) with (
    -- Room on each page for two versions of every row. A round writes the new version beside the old one (HOT): it
    -- touches no index, and the next round's pruning gives the old one's room back. The table never grows.
    fillfactor = 45,
    -- After a round as many row versions are dead as there are users, and that is how it should be: the next round
    -- prunes them. A vacuum has work only when they are more, because a long snapshot kept pruning from them.
    autovacuum_vacuum_scale_factor = 1.5,
    autovacuum_vacuum_threshold = 1000,
    -- No statement's plan depends on this table's statistics; once in about a hundred rounds keeps them plausible.
    autovacuum_analyze_scale_factor = 100
);

comment on table users is 'Every user, with the points of the current round.';
comment on column users.points is '0 to 100, renewed by every round. Not indexed: an index here would make every update of a round a cold one.';
comment on column users.updated_at is 'When the round that set the points began; the same for all users.';
