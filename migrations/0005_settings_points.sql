-- All that a request shows stands in one row: it reads no user, and waits for nobody who locks the users.
-- A worker of the release before would leave these points as they are: new workers first, then new replicas.

alter table settings
    add column first_points integer,
    add column second_points integer;

update settings
set first_points = (select points from users where id = first_user_id),
    second_points = (select points from users where id = second_user_id);

alter table settings
    add constraint settings_first_points_are_0_to_100 check (first_points between 0 and 100),
    add constraint settings_second_points_are_0_to_100 check (second_points between 0 and 100);

comment on column settings.first_points is 'Those of first_user_id in this round, which alone changes them.';
