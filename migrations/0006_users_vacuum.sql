-- A round misses pages: what the last round replaced is not pruned from one that somebody else has pinned just then, as a
-- checkpoint has while it writes it (heap_page_prune_opt in Postgres). The page's users then move to a new one, and only a
-- vacuum notes that there is room where they were. Every user leaves one dead version, those who moved one more: once these
-- are a thousand, of some twenty pages, a vacuum comes, and the next to move take that room. (The factor was 1.5: the table
-- could grow by half before.)

alter table users set (
    autovacuum_vacuum_scale_factor = 1,
    autovacuum_vacuum_threshold = 1000,
    -- Else a vacuum passes over the room of so few.
    vacuum_index_cleanup = on
);
