//! Tests of rounds, grouped by promise.

mod delay;
mod fence;
mod points;
mod shown_users;

use chrono::{DateTime, TimeDelta, Utc};
use shared::db::Session;
use shared::domain::MinPoints;
use shared::domain::rounds::{self, Outcome};

use crate::ROUND_TIMEOUT;

const NO_COOLDOWN: TimeDelta = TimeDelta::zero();

fn min_points(points: i32) -> MinPoints {
    points.to_string().parse().unwrap()
}

/// Does the round that is due by this schedule, if one is.
async fn run_due(
    worker: &mut Session,
    latest_tick: impl Fn(DateTime<Utc>) -> Option<DateTime<Utc>>,
    cooldown: TimeDelta,
) -> Outcome {
    rounds::run_due(worker, latest_tick, cooldown, ROUND_TIMEOUT)
        .await
        .unwrap()
}

/// The same by a schedule with a single tick, so that a test doesn't depend on the time.
async fn run_only_tick(worker: &mut Session) -> Outcome {
    run_due(worker, |_| Some(DateTime::UNIX_EPOCH), NO_COOLDOWN).await
}
