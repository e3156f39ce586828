-- Makes durable what this session has committed before. The emitted record has no content of use. It
-- gives the transaction a write-ahead log record and an id, and only the commit of a transaction with
-- both waits for the disk and the synchronous standby. Every role may emit one. It returns no row,
-- so that both messages return the same two.
select from pg_logical_emit_message(true, 'max_two', '') as position where position is null
