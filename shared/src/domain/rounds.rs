//! Does the round of each tick once, and completely or not at all.
//!
//! The order inside a round's transaction ensures that. First it takes the lock. Then it reads the
//! fence, in a statement of its own, so that the snapshot is younger than the lock. Then it writes.
//! A worker that was paused or cut off in between has lost its transaction by the time another
//! worker holds the lock.
//!
//! All times are of the database's clock, which may be wrong: see [`CLOCK_TOLERANCE`].

mod statements;

use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Connection as _;
use tokio::time::sleep;

use crate::db::{Error, Session, with_timeout};
use crate::domain::shown_users::{self, MinPoints};
use crate::domain::users;
use statements::{read_fence, record_round, try_lock, wait_for_old_snapshots};

/// A recorded time up to this far ahead of the database's clock is trusted, so that a failover to a
/// server with a slightly slower clock repeats no tick. No round is done while a trusted fence is
/// ahead, so the tolerance is short.
///
/// If the newest round is further ahead, a wrong clock recorded it. Then every round ahead of the
/// clock is ignored, so a tick may be done again. The next scheduled round deletes them and reports
/// it in [`Round::clock_ahead_by`].
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// Bounds each step other than the writes and the commit: begin, claim (lock and fence), the wait
/// for old snapshots, rollback.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long this process waits for a commit: a disk that is busy with a checkpoint can delay it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to check a condition while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A committed round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The tick that the round was done for; the start of an operator's round, which has no tick.
    pub tick_at: DateTime<Utc>,
    /// When its transaction started. It may wait for old snapshots after that.
    pub started_at: DateTime<Utc>,
    /// The time just before its commit.
    pub finished_at: DateTime<Utc>,
    /// How many users were updated.
    pub users_updated: u64,
    /// How far a recorded time was ahead of the clock, if by more than [`CLOCK_TOLERANCE`]: the end
    /// of a round that this one has deleted, or the time of the last query, whichever is later.
    pub clock_ahead_by: Option<TimeDelta>,
}

/// The newest scheduled round. It keeps its tick from being done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The tick.
    pub tick_at: DateTime<Utc>,
    /// The time just before the round's commit.
    pub finished_at: DateTime<Utc>,
}

/// What [`run_due`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The round is committed.
    Done(Round),
    /// No round is due: the latest tick's is done, or there has been no tick yet.
    NotDue(Option<Fence>),
    /// Another worker holds the lock.
    Busy,
    /// The last round was still running at the next tick, and its cooldown is not over.
    CoolingDown,
}

/// Does the round of the latest tick, unless it is done already.
///
/// `latest_tick` returns the last tick at or before a time of the database's clock, if there is
/// one. A round that was still running at the next tick is followed by `cooldown`, counted from its
/// end. The writes may take `round_timeout`.
///
/// # Errors
/// When a statement fails or exceeds its timeout, or the connection breaks. Then no round was done,
/// except that a commit that failed or timed out may still take effect: the next call finds out.
/// Drop the session.
pub async fn run_due(
    session: &mut Session,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
    round_timeout: Duration,
) -> Result<Outcome, Error> {
    let mut transaction = with_timeout(STEP_TIMEOUT, session.begin()).await?;
    let claim = claim_tick(&mut transaction, latest_tick, cooldown);
    let tick_at = match with_timeout(STEP_TIMEOUT, claim).await? {
        ControlFlow::Continue(tick_at) => tick_at,
        ControlFlow::Break(outcome) => {
            with_timeout(STEP_TIMEOUT, transaction.rollback()).await?;
            return Ok(outcome);
        }
    };
    let min_points = MinPoints::draw();
    let round = write_round(&mut transaction, Some(tick_at), min_points, round_timeout).await?;
    with_timeout(COMMIT_TIMEOUT, transaction.commit()).await?;
    Ok(Outcome::Done(round))
}

/// Takes the lock, then checks the fence and the cooldown. Breaks where there is no round to do,
/// else continues with its tick.
async fn claim_tick(
    transaction: &mut Session,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
) -> Result<ControlFlow<Outcome, DateTime<Utc>>, Error> {
    if !try_lock(transaction).await? {
        return Ok(ControlFlow::Break(Outcome::Busy));
    }
    let (transaction_started_at, fence) = read_fence(transaction).await?;
    let Some(tick_at) = latest_tick(transaction_started_at) else {
        return Ok(ControlFlow::Break(Outcome::NotDue(fence)));
    };
    if let Some(fence) = fence {
        if fence.tick_at >= tick_at {
            return Ok(ControlFlow::Break(Outcome::NotDue(Some(fence))));
        }
        // It was still running at the next tick.
        let overran = latest_tick(fence.finished_at) > Some(fence.tick_at);
        let since_its_end = transaction_started_at - fence.finished_at;
        // An end further ahead than the tolerance was recorded by a wrong clock, and starts no
        // cooldown.
        let is_cooling_down = (-CLOCK_TOLERANCE..cooldown).contains(&since_its_end);
        if overran && is_cooling_down {
            return Ok(ControlFlow::Break(Outcome::CoolingDown));
        }
    }
    Ok(ControlFlow::Continue(tick_at))
}

/// Does a round now, whatever the schedule and the cooldown are. Waits while another round runs.
/// The writes may take `round_timeout`.
///
/// # Errors
/// As for [`run_due`].
pub async fn run_now(
    session: &mut Session,
    min_points: MinPoints,
    round_timeout: Duration,
) -> Result<Round, Error> {
    loop {
        let mut transaction = with_timeout(STEP_TIMEOUT, session.begin()).await?;
        if with_timeout(STEP_TIMEOUT, try_lock(&mut transaction)).await? {
            let round = write_round(&mut transaction, None, min_points, round_timeout).await?;
            with_timeout(COMMIT_TIMEOUT, transaction.commit()).await?;
            return Ok(round);
        }
        // In a new transaction: the time of this one may be from before the running round's end.
        with_timeout(STEP_TIMEOUT, transaction.rollback()).await?;
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits for old snapshots, then does all writes of a round: points, minimum and shown users, and
/// the row in `rounds`.
async fn write_round(
    transaction: &mut Session,
    tick_at: Option<DateTime<Utc>>,
    min_points: MinPoints,
    round_timeout: Duration,
) -> Result<Round, Error> {
    with_timeout(STEP_TIMEOUT, wait_for_old_snapshots(transaction)).await?;
    with_timeout(round_timeout, async {
        let users_updated = users::renew_points(transaction).await?;
        shown_users::renew(transaction, min_points).await?;
        record_round(transaction, tick_at, users_updated).await
    })
    .await
}
