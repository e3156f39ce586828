//! The lock, the statements over `rounds`, and the check for old snapshots.

use chrono::{DateTime, Utc};

use super::{CLOCK_TOLERANCE, Round};
use crate::db::{Error, Session};

/// The key of the advisory lock: the letters "max two".
const LOCK_KEY: i64 = 0x6d_6178_2074_776f;

/// Takes the lock until the transaction ends. False if another session holds it.
pub(super) async fn try_lock(transaction: &mut Session) -> Result<bool, Error> {
    let row = sqlx::query!(
        r#"select pg_try_advisory_xact_lock($1) as "held!""#,
        LOCK_KEY
    )
    .fetch_one(transaction)
    .await?;
    Ok(row.held)
}

/// The database's time, and the newest round that was done for a tick: the fence. A tick further
/// ahead than [`CLOCK_TOLERANCE`] does not count. Ahead of the clock, not of the transaction's
/// begin: a worker that was paused must meet the round that was done meanwhile.
///
/// # Errors
/// When the statement fails or the connection breaks.
pub async fn read_fence(session: &mut Session) -> Result<(DateTime<Utc>, Option<Round>), Error> {
    let row = sqlx::query!(
        r#"select now() as "now!",
                  tick_at as "tick_at?", started_at as "started_at?",
                  finished_at as "finished_at?", users_updated as "users_updated?"
           from (values (true)) as one_row
           left join (
               select * from rounds
               where scheduled and tick_at <= (select clock_timestamp()) + make_interval(secs => $1)
               order by tick_at desc
               limit 1
           ) as last on true"#,
        CLOCK_TOLERANCE.as_seconds_f64(),
    )
    .fetch_one(session)
    .await?;
    let last = || {
        Some(Round {
            tick_at: row.tick_at?,
            started_at: row.started_at?,
            finished_at: row.finished_at?,
            users_updated: row.users_updated?.cast_unsigned(),
        })
    };
    Ok((row.now, last()))
}

/// True while a snapshot older than the last round is open: the next round could not prune, and
/// `users` would grow.
///
/// This session counts too: its `backend_xmin` reaches back to the oldest transaction of the whole
/// server, other databases included. The check only covers the two seconds after a round, in which
/// ordinary queries end. A longer snapshot, such as a dump's, makes the table grow. So do
/// replication slots and `hot_standby_feedback`, which are not checked: they do not end within
/// seconds either. A round that ended further ahead than [`CLOCK_TOLERANCE`] does not count.
pub(super) async fn old_snapshot_open(transaction: &mut Session) -> Result<bool, Error> {
    let row = sqlx::query!(
        r#"select exists (
               select
               from (
                   select xmin, finished_at from rounds
                   where finished_at <= now() + make_interval(secs => $1)
                   order by finished_at desc
                   limit 1
               ) as last
               join pg_stat_activity as session
                 on greatest(age(session.backend_xmin), age(session.backend_xid)) >= age(last.xmin)
               where session.datname = current_database()
                 and last.finished_at > now() - interval '2 seconds'
           ) as "old_snapshot_open!""#,
        CLOCK_TOLERANCE.as_seconds_f64(),
    )
    .fetch_one(transaction)
    .await?;
    Ok(row.old_snapshot_open)
}

/// Inserts the round's row; without a tick it stands for an operator's round. Deletes rows older
/// than a week, but never the fence. The round of a tick is the new fence. So it also deletes rows
/// further ahead than [`CLOCK_TOLERANCE`], whose ticks would otherwise count once they are near.
pub(super) async fn insert_round(
    transaction: &mut Session,
    tick_at: Option<DateTime<Utc>>,
    users_updated: u64,
) -> Result<Round, Error> {
    let row = sqlx::query!(
        "with expired as ( \
             delete from rounds \
             where finished_at < now() - interval '7 days' \
               and tick_at < ( \
                   select max(tick_at) from rounds \
                   where scheduled \
                     and tick_at <= (select clock_timestamp()) + make_interval(secs => $3) \
               ) \
         ), \
         ahead as ( \
             delete from rounds \
             where $1::timestamptz is not null \
               and finished_at > (select clock_timestamp()) + make_interval(secs => $3) \
         ) \
         insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
         values (coalesce($1, now()), $1 is not null, now(), clock_timestamp(), $2) \
         returning tick_at, started_at, finished_at",
        tick_at,
        users_updated.cast_signed(),
        CLOCK_TOLERANCE.as_seconds_f64(),
    )
    .fetch_one(transaction)
    .await?;
    Ok(Round {
        tick_at: row.tick_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        users_updated,
    })
}
