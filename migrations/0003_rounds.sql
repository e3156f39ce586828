-- One row for each round that was done: the fence that keeps a tick from being done twice.

create table rounds (
    tick_at       timestamptz not null,
    scheduled     boolean     not null,
    started_at    timestamptz not null,
    finished_at   timestamptz not null,
    users_updated bigint      not null,
    constraint rounds_pkey primary key (tick_at),
    constraint rounds_start_not_before_their_tick check (started_at >= tick_at),
    constraint rounds_finish_not_before_their_start check (finished_at >= started_at),
    constraint rounds_users_updated_is_not_negative check (users_updated >= 0)
);

comment on table rounds is 'Every round of the last week.';
comment on column rounds.tick_at is 'The tick that the round was done for; of a round that an operator asked for, its start.';
comment on column rounds.scheduled is 'False for a round that an operator asked for: it stands for no tick, and fences none.';

create index rounds_scheduled_tick_at on rounds (tick_at) where scheduled;
create index rounds_finished_at on rounds (finished_at);
