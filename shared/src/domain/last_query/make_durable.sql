-- Makes durable what this session has committed before. A commit waits for the disk and the
-- synchronous standby only if its transaction has an id and has written to the write-ahead log. The
-- emitted record, whose content nobody reads, provides both. Every role may emit one. This statement
-- returns no row, so that both messages return the same two rows.
select from pg_logical_emit_message(true, 'max_two', '') as position where position is null
