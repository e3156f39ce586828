-- What the current round decided, and all that a request needs to know of it.

create table settings (
    only_row       boolean not null default true,
    min_points     integer not null,
    first_user_id  bigint,
    second_user_id bigint,
    constraint settings_pkey primary key (only_row),
    constraint settings_has_one_row check (only_row),
    constraint settings_min_points_is_0_to_100 check (min_points between 0 and 100),
    constraint settings_users_are_in_order check (first_user_id < second_user_id),
    constraint settings_second_user_follows_a_first check (second_user_id is null or first_user_id is not null)
) with (fillfactor = 50);

comment on table settings is 'One row: the current round''s minimum, and the users that the round chose to show.';
comment on column settings.min_points is 'A user qualifies with points above it. Secret: it never leaves the database and the worker''s memory.';
comment on column settings.first_user_id is 'Not a foreign key: every update of users would have to look here.';

-- Before the first round nobody qualifies.
insert into settings (min_points) values (100);
