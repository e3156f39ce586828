-- The end of the chain of queries: a row that every answer of every replica moves on.

create table last_query (
    only_row    boolean not null default true,
    queried_at  timestamptz,
    previous_at timestamptz,
    constraint last_query_pkey primary key (only_row),
    constraint last_query_has_one_row check (only_row),
    constraint last_query_never_goes_back check (previous_at <= queried_at)
) with (
    -- Thousands of versions a second of a single row: prune whenever the page is a tenth full, and clean up early what
    -- a round's snapshot kept from pruning.
    fillfactor = 10,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000000
);

comment on table last_query is 'One row: when the last query was answered, and the one before it.';
comment on column last_query.queried_at is 'Null before the first query ever.';

insert into last_query default values;
