-- A round leaves a page unpruned that somebody else has pinned just then, as a checkpoint has while it writes it
-- (heap_page_prune_opt in Postgres). Most of that page's users move to a new one, and only a vacuum notes that there is room
-- where they were. After a round, each user has left one dead version; those who ever moved count once more. So a vacuum
-- comes when about a thousand users have moved (0001's threshold), of some twenty pages, and the next to move take that
-- room: the table stops growing. With the factor of 1.5 that it had, it would have gone on for half of its size.
--
-- The count is not kept by all that happens: a crash forgets it, and a vacuum during a round puts it too low. The analyze
-- that comes every hundred rounds (0001) sets it right, so that this relies on it.

alter table users set (
    autovacuum_vacuum_scale_factor = 1,
    -- Left to itself, a vacuum does not clean indexes for dead rows on less than 2 % of the pages, and does not note these
    -- pages' room either.
    vacuum_index_cleanup = on
);
