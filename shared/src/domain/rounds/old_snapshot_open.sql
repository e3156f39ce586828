-- Whether a snapshot older than the last round is open. A round that ended ahead of the clock does
-- not count.
--
-- This session counts too: its `backend_xmin` is the oldest transaction that writes in any database of
-- the server, which limits pruning here. The check only covers the two seconds after a round, in
-- which ordinary queries end. A longer snapshot, such as a dump's, makes `users` grow. So do
-- replication slots and `hot_standby_feedback`, which are not checked: they do not end either.
select exists (
    select
    from (
        select xmin, finished_at from rounds
        where finished_at <= (select clock_timestamp())
        order by finished_at desc
        limit 1
    ) as last
    join pg_stat_activity as session
      on greatest(age(session.backend_xmin), age(session.backend_xid)) >= age(last.xmin)
    where session.datname = current_database()
      and last.finished_at > now() - interval '2 seconds'
) as "old_snapshot_open!"
