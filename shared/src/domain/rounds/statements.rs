//! The lock, the statements over `rounds`, and the wait for old snapshots.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::{CLOCK_TOLERANCE, Fence, POLL_INTERVAL, Round};
use crate::db::{Error, Session};

/// The key of the advisory lock: the letters "max two".
const LOCK_KEY: i64 = 0x6d_6178_2074_776f;
/// How long after a round an older snapshot delays the next one.
const OLD_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes the lock until the transaction ends. False if another session holds it.
pub(super) async fn try_lock(transaction: &mut Session) -> Result<bool, Error> {
    let lock = sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock($1) as "held!""#,
        LOCK_KEY
    );
    Ok(lock.fetch_one(transaction).await?)
}

/// Reads when the transaction started, and the fence, which is the newest scheduled round unless a
/// wrong clock recorded it ([`CLOCK_TOLERANCE`]).
pub(super) async fn read_fence(
    transaction: &mut Session,
) -> Result<(DateTime<Utc>, Option<Fence>), Error> {
    let row = sqlx::query_file!(
        "src/domain/rounds/read_fence.sql",
        CLOCK_TOLERANCE.as_seconds_f64()
    )
    .fetch_one(transaction)
    .await?;
    let fence = row.tick_at.zip(row.finished_at);
    let fence = fence.map(|(tick_at, finished_at)| Fence {
        tick_at,
        finished_at,
    });
    Ok((row.transaction_started_at, fence))
}

/// Waits while a snapshot older than the last round is open, until [`OLD_SNAPSHOT_TIMEOUT`] after
/// that round at most. With such a snapshot the next round could not prune, and `users` would grow.
/// So it matters only when rounds follow each other closely: with a tick every second, or when an
/// operator starts one.
pub(super) async fn wait_for_old_snapshots(transaction: &mut Session) -> Result<(), Error> {
    loop {
        let check = sqlx::query_file_scalar!(
            "src/domain/rounds/old_snapshot_open.sql",
            OLD_SNAPSHOT_TIMEOUT.as_secs_f64()
        );
        if !check.fetch_one(&mut *transaction).await? {
            return Ok(());
        }
        sleep(POLL_INTERVAL).await;
        // A transaction sees other sessions as they were when it first looked at them.
        sqlx::query!("select pg_stat_clear_snapshot()")
            .execute(&mut *transaction)
            .await?;
    }
}

/// Records the round: a scheduled one, or without a tick an operator's. Deletes expired rows, and
/// for a scheduled round those that a wrong clock recorded ([`CLOCK_TOLERANCE`]).
pub(super) async fn record_round(
    transaction: &mut Session,
    tick_at: Option<DateTime<Utc>>,
    users_updated: u64,
) -> Result<Round, Error> {
    let row = sqlx::query_file!(
        "src/domain/rounds/record_round.sql",
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
        clock_ahead_by: row.newest_ahead_at.map(|newest| newest - row.finished_at),
    })
}
