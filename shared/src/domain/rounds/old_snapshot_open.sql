-- Whether a snapshot older than the last round is open, until $1 seconds after that round. One that
-- is open for longer belongs to a dump or a stuck session, and waiting for it would only delay the
-- round. This ignores replication slots and `hot_standby_feedback`, which do not end by themselves,
-- and a last round that ended ahead of the clock.
--
-- This session counts too: its `backend_xmin` reaches back to the oldest writing transaction of the
-- server. So the check also finds a transaction in another database, which prevents pruning as well.
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
      and last.finished_at > clock_timestamp() - make_interval(secs => $1)
) as "old_snapshot_open!"
