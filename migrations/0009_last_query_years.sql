-- Every answer shows this time with a year of four digits, and programs can't read `infinity` at all. Somebody may have set
-- such a time: it is forgotten, as before the first query.

alter table last_query
    add constraint last_query_queried_at_is_of_the_years_1_to_9999
        check (queried_at >= '0001-01-01 00:00:00Z' and queried_at < '10000-01-01 00:00:00Z') not valid;

update last_query
set previous_at = null, queried_at = null
where not (queried_at >= '0001-01-01 00:00:00Z' and queried_at < '10000-01-01 00:00:00Z');

alter table last_query validate constraint last_query_queried_at_is_of_the_years_1_to_9999;
