-- Until the next release, a trigger keeps `shown_users` (0008) and the four columns that it replaces equal. So programs of
-- this release use `shown_users` alone, and those of the previous one the columns. The next release drops columns and trigger.
--
-- A worker of the previous release has left `shown_users` as it was.

update settings
set shown_users = (
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
    from (values (first_user_id, first_points), (second_user_id, second_points)) as shown (id, points)
    where id is not null and points is not null
);

-- `shown_users` has constraints of the same meaning.
alter table settings
    drop constraint settings_users_are_in_order,
    drop constraint settings_second_user_follows_a_first,
    drop constraint settings_first_points_are_0_to_100,
    drop constraint settings_second_points_are_0_to_100;

create or replace function settings_columns_follow() returns trigger language plpgsql as $$
begin
    if new.shown_users is distinct from old.shown_users then
        new.first_user_id := new.shown_users #>> '{0,id}';
        new.first_points := new.shown_users #>> '{0,points}';
        new.second_user_id := new.shown_users #>> '{1,id}';
        new.second_points := new.shown_users #>> '{1,points}';
    elsif (new.first_user_id, new.first_points, new.second_user_id, new.second_points)
        is distinct from (old.first_user_id, old.first_points, old.second_user_id, old.second_points)
    then
        new.shown_users := (
            select coalesce(jsonb_agg(jsonb_build_object('id', id, 'points', points) order by id), '[]')
            from (
                values (new.first_user_id, new.first_points), (new.second_user_id, new.second_points)
            ) as shown (id, points)
            where id is not null and points is not null
        );
    end if;
    return new;
end
$$;

create trigger settings_columns_follow before update on settings
    for each row execute function settings_columns_follow();
