-- The users that answers show, in one column: another column of theirs needs none here. The columns for ids and points
-- stay for one release, whose workers write both. A worker of the release before leaves this column as it is; so a replica
-- believes it only where it agrees with the others.

alter table settings
    add column shown_users jsonb not null default '[]';

update settings
set shown_users = (
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
    from (values (first_user_id, first_points), (second_user_id, second_points)) as shown (id, points)
    where id is not null and points is not null
);

alter table settings
    add constraint settings_shown_users_are_at_most_two
        check (shown_users @@ 'strict $.type() == "array" && $.size() <= 2'),
    add constraint settings_shown_users_are_in_order
        check (not shown_users @@ '$[0].id >= $[1].id'),
    add constraint settings_shown_users_have_an_id
        check (not shown_users @? '$[*] ? (!(@.id.type() == "number" && @.id >= 1))'),
    add constraint settings_shown_points_are_0_to_100
        check (not shown_users @? '$[*] ? (!(@.points.type() == "number" && @.points >= 0 && @.points <= 100))');

comment on column settings.shown_users is 'At most two users in the order of their ids, each an object of what an answer shows. Never the minimum.';
