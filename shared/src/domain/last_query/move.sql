-- Moves the chain of queries on by one. A concurrent query waits here for the row's lock, and then
-- continues from the committed row.
--
-- `where only_row` is always true. It lets the planner use the primary key, which skips the pages of
-- dead row versions that a long transaction leaves behind. A session that planned a scan earlier keeps
-- that plan until the next vacuum.
update last_query
set previous_at = queried_at,
    queried_at = greatest(clock_timestamp(), queried_at)
where only_row
returning previous_at, queried_at
