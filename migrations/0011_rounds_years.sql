-- Programs can't read times such as `infinity`: the workers would fail at the fence forever, so somebody's round with such a
-- time is forgotten. The other constraints put its start between these two times.

alter table rounds
    add constraint rounds_times_are_of_the_years_1_to_9999
        check (tick_at >= '0001-01-01 00:00:00Z' and finished_at < '10000-01-01 00:00:00Z') not valid;

delete from rounds
where not (tick_at >= '0001-01-01 00:00:00Z' and finished_at < '10000-01-01 00:00:00Z');

alter table rounds validate constraint rounds_times_are_of_the_years_1_to_9999;
