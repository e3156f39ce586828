//! Rounds, by what their tests prove.

mod choice;
mod clock;
mod delay;
mod fence;
mod points;

use chrono::{DateTime, TimeDelta};
use shared::MinPoints;
use shared::rounds::{self, Outcome};
use shared::users::Layout;
use sqlx::PgConnection;
use testkit::TestDatabase;

use crate::ROUND_TIMEOUT;

const NO_COOLDOWN: TimeDelta = TimeDelta::zero();

fn min_points(points: i32) -> MinPoints {
    points.to_string().parse().unwrap()
}

/// Runs the due round of a schedule with a single tick, so that tests don't depend on the time.
async fn run_only_tick(session: &mut PgConnection) -> Outcome {
    rounds::run_due(
        session,
        Layout::SingleNode,
        |_| Some(DateTime::UNIX_EPOCH),
        NO_COOLDOWN,
        ROUND_TIMEOUT,
    )
    .await
    .unwrap()
}

/// Inserts a round for a tick. Each argument is a time in SQL.
async fn insert_round(database: &TestDatabase, tick_at: &str, finished_at: &str) {
    database
        .run(&format!(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values ({tick_at}, true, {tick_at}, {finished_at}, 10)"
        ))
        .await;
}
