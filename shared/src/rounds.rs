//! Rounds: each tick once, whole or not at all.
//!
//! The order inside a round's transaction is what keeps the promise: first the lock, then, in a statement of its own and
//! so with a snapshot that is younger than the lock, the fence, then the writes. A worker that was paused or cut off
//! anywhere in between has lost its transaction by the time another one holds the lock. Every time is the database's.

use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection, PgConnection};
use tokio::time::sleep;

use crate::choice::{self, MinPoints};
use crate::db::{Error, with_deadline};
use crate::users::{self, Layout};

/// The key of the advisory lock that rounds are done under: the letters "max two".
const LOCK: i64 = 0x6d_6178_2074_776f;

/// How long a statement may take that only looks, or takes a free lock.
const CALL: Duration = Duration::from_secs(5);
/// The pause between two looks whether a running round has ended.
const BUSY: Duration = Duration::from_millis(100);
/// How long a commit may take: a disk that is busy with a checkpoint can make it wait.
const COMMIT: Duration = Duration::from_secs(30);

/// A round that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The tick that it was done for.
    pub tick_at: DateTime<Utc>,
    /// By the database's clock.
    pub started_at: DateTime<Utc>,
    /// By the database's clock, just before the commit.
    pub finished_at: DateTime<Utc>,
    /// All users that there were.
    pub users_updated: u64,
}

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The round was done, and is committed.
    Done(Round),
    /// No tick is due: the last one has been done, in this round.
    NotDue(Option<Round>),
    /// Another worker holds the lock.
    Busy,
    /// The last round outlasted its tick, and its cooldown is not over yet; or it has only just ended, and somebody still
    /// reads what it replaced.
    CoolingDown,
}

/// Does the round of the tick that is due, if it has not been done.
///
/// `layout` is that of the users. `latest_tick` says which tick is due at a given time: the last one at or before it, if
/// there is one. It is asked with times of the database's clock only. `cooldown` is counted from the end of a round that was
/// still running when the tick after its own came. The writes may take `limit`; everything else has a few seconds.
///
/// # Errors
/// When the database can't be reached or refuses, or is out of time. Nothing was done then, unless it was the answer to
/// the commit that got lost: the next attempt finds out. The connection is to be dropped.
pub async fn run_due(
    connection: &mut PgConnection,
    layout: Layout,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
    limit: Duration,
) -> Result<Outcome, Error> {
    let mut transaction = with_deadline(CALL, async { Ok(connection.begin().await?) }).await?;
    let decision = with_deadline(CALL, decide(&mut transaction, latest_tick, cooldown)).await?;
    let tick_at = match decision {
        ControlFlow::Continue(tick_at) => tick_at,
        ControlFlow::Break(outcome) => {
            with_deadline(CALL, async { Ok(transaction.rollback().await?) }).await?;
            return Ok(outcome);
        }
    };
    let renewal = renew(&mut transaction, layout, Some(tick_at), MinPoints::draw());
    let round = with_deadline(limit, renewal).await?;
    with_deadline(COMMIT, async { Ok(transaction.commit().await?) }).await?;
    Ok(Outcome::Done(round))
}

/// The lock, the fence and the cooldown: goes on with the tick whose round is to be done, or breaks off.
async fn decide(
    transaction: &mut PgConnection,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
) -> Result<ControlFlow<Outcome, DateTime<Utc>>, Error> {
    if !try_lock(transaction).await? {
        return Ok(ControlFlow::Break(Outcome::Busy));
    }
    let (now, last) = last_scheduled(transaction).await?;
    let Some(tick_at) = latest_tick(now) else {
        return Ok(ControlFlow::Break(Outcome::NotDue(last)));
    };
    if let Some(last) = last {
        let outlasted_its_tick = latest_tick(last.finished_at) > Some(last.tick_at);
        if last.tick_at >= tick_at {
            return Ok(ControlFlow::Break(Outcome::NotDue(Some(last))));
        }
        if outlasted_its_tick && now - last.finished_at < cooldown {
            return Ok(ControlFlow::Break(Outcome::CoolingDown));
        }
    }
    Ok(if old_snapshot_open(transaction).await? {
        ControlFlow::Break(Outcome::CoolingDown)
    } else {
        ControlFlow::Continue(tick_at)
    })
}

/// Whether somebody still reads what the last round replaced. That snapshot would keep the next round from pruning it: the
/// new versions would not fit beside the old ones, and the table would grow. Our own session counts as well: its snapshot
/// reaches back to the oldest transaction of the whole server, in other databases, too. It is waited for only as long as a
/// query may take; whoever takes longer, as a dump does, makes the table grow. (So do replication slots and what a standby
/// feeds back, which are not seen here, and do not pass in a moment either.)
async fn old_snapshot_open(transaction: &mut PgConnection) -> Result<bool, Error> {
    let row = sqlx::query!(
        r#"select exists (
               select
               from (select xmin, finished_at from rounds order by finished_at desc limit 1) as last
               join pg_stat_activity as session
                 on greatest(age(session.backend_xmin), age(session.backend_xid)) >= age(last.xmin)
               where session.datname = current_database()
                 and last.finished_at > now() - interval '2 seconds'
           ) as "old_snapshot_open!""#
    )
    .fetch_one(transaction)
    .await?;
    Ok(row.old_snapshot_open)
}

/// Does a round now, whatever tick or cooldown there is, once a round that is running has ended, and nobody reads any more
/// what it replaced. The writes may take `limit`.
///
/// # Errors
/// As for [`run_due`].
pub async fn run_now(
    connection: &mut PgConnection,
    layout: Layout,
    min_points: MinPoints,
    limit: Duration,
) -> Result<Round, Error> {
    loop {
        let mut transaction = with_deadline(CALL, async { Ok(connection.begin().await?) }).await?;
        let free = with_deadline(CALL, async {
            Ok(try_lock(&mut transaction).await? && !old_snapshot_open(&mut transaction).await?)
        });
        if free.await? {
            let round =
                with_deadline(limit, renew(&mut transaction, layout, None, min_points)).await?;
            with_deadline(COMMIT, async { Ok(transaction.commit().await?) }).await?;
            return Ok(round);
        }
        // Not waiting inside the transaction: its snapshot would keep the running round from pruning.
        with_deadline(CALL, async { Ok(transaction.rollback().await?) }).await?;
        sleep(BUSY).await;
    }
}

/// The newest round that was done for a tick, and the database's time.
///
/// # Errors
/// When the database can't be reached.
pub async fn last_scheduled(
    connection: &mut PgConnection,
) -> Result<(DateTime<Utc>, Option<Round>), Error> {
    let row = sqlx::query!(
        r#"select now() as "now!",
                  tick_at as "tick_at?", started_at as "started_at?",
                  finished_at as "finished_at?", users_updated as "users_updated?"
           from (values (true)) as always
           left join (select * from rounds where scheduled order by tick_at desc limit 1) as last on true"#
    )
    .fetch_one(connection)
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

async fn try_lock(transaction: &mut PgConnection) -> Result<bool, Error> {
    let row = sqlx::query!(r#"select pg_try_advisory_xact_lock($1) as "held!""#, LOCK)
        .fetch_one(transaction)
        .await?;
    Ok(row.held)
}

/// All that a round writes: points, settings, and the row that says so.
async fn renew(
    transaction: &mut PgConnection,
    layout: Layout,
    tick_at: Option<DateTime<Utc>>,
    min_points: MinPoints,
) -> Result<Round, Error> {
    let users_updated = users::renew_points(transaction, layout).await?;
    choice::renew(transaction, min_points).await?;
    record(transaction, tick_at, users_updated).await
}

/// Writes the round's row, and forgets those that are older than a week, but never the one that is the fence.
async fn record(
    transaction: &mut PgConnection,
    tick_at: Option<DateTime<Utc>>,
    users_updated: u64,
) -> Result<Round, Error> {
    let row = sqlx::query!(
        "with forgotten as ( \
             delete from rounds \
             where finished_at < now() - interval '7 days' \
               and tick_at < (select max(tick_at) from rounds where scheduled) \
         ) \
         insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
         values (coalesce($1, now()), $1 is not null, now(), clock_timestamp(), $2) \
         returning tick_at, started_at, finished_at",
        tick_at,
        users_updated.cast_signed(),
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
