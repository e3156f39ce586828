//! Rounds: each tick once, whole or not at all.
//!
//! The order inside a round's transaction keeps that promise. First it takes the lock. Then it
//! reads the fence, in a statement of its own, so that the snapshot is younger than the lock. Then
//! it writes. A worker that was paused or cut off in between has lost its transaction by the time
//! another worker holds the lock. Every time is the database's.
//!
//! That clock may be wrong. A fence in the future counts only if it is a minute ahead at most. The
//! next round of a tick deletes rounds that are further ahead, and its [`Outcome`] says so.

mod statements;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Connection as _;
use tokio::time::sleep;

use crate::db::{Error, Session, with_timeout};
use crate::domain::choice::{self, MinPoints};
use crate::domain::users::{self, Layout};
use statements::{is_old_snapshot_open, record_round, try_lock};

pub use statements::read_fence;

/// How far a recorded time may be ahead of the database's clock and still count. Longer than
/// synchronised clocks of two servers differ, so that after a failover the new primary does not
/// repeat a tick. Short, because rounds wait until the clock has passed the fence. Beyond it the
/// clock was wrong, and a tick may be done again.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);
/// How long this process waits for a begin, a claim or a rollback: none does more than read and
/// take a free lock.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long this process waits for a commit: a disk that is busy with a checkpoint can delay it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long [`run_now`] waits before it tries again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A committed round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The tick that the round was done for; the start of an operator's round, which has no tick.
    pub tick_at: DateTime<Utc>,
    /// When its transaction started.
    pub started_at: DateTime<Utc>,
    /// The time just before its commit.
    pub finished_at: DateTime<Utc>,
    /// The number of users, all of which were updated.
    pub users_updated: u64,
}

/// What [`read_fence`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceReading {
    /// When the transaction started, by the database's clock. The due tick is the latest at this
    /// time.
    pub transaction_started_at: DateTime<Utc>,
    /// The newest round that was done for a tick, if there is one. It keeps that tick from being
    /// done twice.
    pub fence: Option<Round>,
}

/// What [`run_due`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The round is committed.
    Done {
        /// The round.
        round: Round,
        /// How far ahead of the clock the newest of the rounds was that this one has deleted.
        /// `None` unless some were more than a minute ahead: the database's clock was ahead before,
        /// or is behind now.
        clock_was_ahead: Option<TimeDelta>,
    },
    /// No round is due: the latest tick's is done, or there has been no tick yet. Holds the newest
    /// round that was done for a tick, if there is one.
    NotDue(Option<Round>),
    /// Another worker holds the lock.
    Busy,
    /// The last round was still running at the next tick, and its cooldown is not over.
    CoolingDown,
    /// A snapshot older than the last round is still open: the next round could not prune, and
    /// `users` would grow.
    OldSnapshot,
}

/// Does the round of the latest tick, unless it is done already.
///
/// `latest_tick` returns the last tick at or before a time of the database's clock, if there is
/// one. A round that was still running at its next tick is followed by `cooldown`, counted from its
/// end. The writes may take `round_timeout`.
///
/// # Errors
/// When a statement fails or exceeds its timeout, or the connection breaks. Nothing was done then,
/// unless only the reply to the commit was lost: the next call finds out. Drop the session.
pub async fn run_due(
    session: &mut Session,
    layout: Layout,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
    round_timeout: Duration,
) -> Result<Outcome, Error> {
    let due = Some((latest_tick, cooldown));
    attempt(session, layout, due, MinPoints::draw(), round_timeout).await
}

/// Does a round now, whatever the schedule and the cooldown are. Waits while another round runs and
/// while [`Outcome::OldSnapshot`] would apply. The writes may take `round_timeout`.
///
/// # Errors
/// As for [`run_due`].
pub async fn run_now(
    session: &mut Session,
    layout: Layout,
    min_points: MinPoints,
    round_timeout: Duration,
) -> Result<Round, Error> {
    loop {
        let due = None::<(fn(DateTime<Utc>) -> Option<DateTime<Utc>>, TimeDelta)>;
        let outcome = attempt(session, layout, due, min_points, round_timeout).await?;
        if let Outcome::Done { round, .. } = outcome {
            return Ok(round);
        }
        // Waiting inside the transaction would keep its snapshot open, and the running round could
        // not prune.
        sleep(RETRY_DELAY).await;
    }
}

/// The transaction of a round: that of the latest tick if a schedule and a cooldown are `due`, else
/// an operator's.
async fn attempt(
    session: &mut Session,
    layout: Layout,
    due: Option<(impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>, TimeDelta)>,
    min_points: MinPoints,
    round_timeout: Duration,
) -> Result<Outcome, Error> {
    let mut transaction = with_timeout(STEP_TIMEOUT, async { Ok(session.begin().await?) }).await?;
    let tick_at = match with_timeout(STEP_TIMEOUT, claim(&mut transaction, due)).await? {
        Ok(tick_at) => tick_at,
        Err(outcome) => {
            with_timeout(STEP_TIMEOUT, async { Ok(transaction.rollback().await?) }).await?;
            return Ok(outcome);
        }
    };
    let (round, clock_was_ahead) = with_timeout(round_timeout, async {
        let users_updated = users::renew_points(&mut transaction, layout).await?;
        choice::renew(&mut transaction, min_points).await?;
        record_round(&mut transaction, tick_at, users_updated).await
    })
    .await?;
    with_timeout(COMMIT_TIMEOUT, async { Ok(transaction.commit().await?) }).await?;
    Ok(Outcome::Done {
        round,
        clock_was_ahead,
    })
}

/// Takes the lock, then checks the fence and the cooldown, unless the round is an operator's, and
/// old snapshots. Returns the tick to do, which an operator's round does not have, or why there is
/// no round to do.
async fn claim(
    transaction: &mut Session,
    due: Option<(impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>, TimeDelta)>,
) -> Result<Result<Option<DateTime<Utc>>, Outcome>, Error> {
    if !try_lock(transaction).await? {
        return Ok(Err(Outcome::Busy));
    }
    let mut tick_at = None;
    if let Some((latest_tick, cooldown)) = due {
        let reading = read_fence(transaction).await?;
        tick_at = latest_tick(reading.transaction_started_at);
        let fence_tick = reading.fence.map(|fence| fence.tick_at);
        if tick_at.is_none() || fence_tick >= tick_at {
            return Ok(Err(Outcome::NotDue(reading.fence)));
        }
        if let Some(fence) = reading.fence {
            // It was still running at the next tick.
            let overran = latest_tick(fence.finished_at) > Some(fence.tick_at);
            let since_its_end = reading.transaction_started_at - fence.finished_at;
            // An end further ahead than the tolerance was recorded by a wrong clock, and starts no
            // cooldown.
            let is_cooling_down = (-CLOCK_TOLERANCE..cooldown).contains(&since_its_end);
            if overran && is_cooling_down {
                return Ok(Err(Outcome::CoolingDown));
            }
        }
    }
    Ok(if is_old_snapshot_open(transaction).await? {
        Err(Outcome::OldSnapshot)
    } else {
        Ok(tick_at)
    })
}
