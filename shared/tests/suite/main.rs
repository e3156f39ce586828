//! What `shared` promises by itself, over a real Postgres: statements, sessions, URLs and roles.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics when it cannot continue"
)]

mod last_query;
mod refusals;
mod roles;
mod rounds;
mod schema;
mod session;
mod storage;
mod tls;
mod url;
mod users;

use std::time::Duration;

use shared::db::Session;
use shared::domain::MinPoints;
use shared::domain::rounds::{Round, run_now};

/// How long the writes of a round may take in a test: far longer than on a slow machine.
const ROUND_TIMEOUT: Duration = Duration::from_mins(1);

/// Does an operator's round with this minimum.
async fn run_round(worker: &mut Session, min_points: MinPoints) -> Round {
    run_now(worker, min_points, ROUND_TIMEOUT).await.unwrap()
}
