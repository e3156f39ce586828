//! The worker as a process, over a real Postgres.
//!
//! Tests wait for log events and for conditions in the database.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics when it cannot continue"
)]

mod commands;
mod faults;
mod run;
mod secrecy;

use testkit::{TestDatabase, TestProgram};

/// One tick a year: the latest one is long past.
const YEARLY: (&str, &str) = ("SCHEDULE", "0 0 0 1 1 *");

/// Starts a worker under its own role, with a free port for its admin listener.
fn worker(
    database: &TestDatabase,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> TestProgram {
    let common = [
        ("DATABASE_URL", &*database.worker_url),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    start(arguments, common.iter().chain(environment))
}

/// Starts the program with these arguments and environment variables only.
fn start<'a>(
    arguments: &[&str],
    environment: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> TestProgram {
    TestProgram::start(
        env!("CARGO_BIN_EXE_max-two-worker"),
        arguments,
        environment.into_iter().copied(),
    )
}

/// How many rounds were done.
async fn count_rounds(database: &TestDatabase) -> i64 {
    database.value("select count(*) from rounds").await
}

/// A session in a round after [`make_rounds_endless`].
const IN_ENDLESS_ROUND: &str = "wait_event = 'PgSleep'";

/// From now on no round ends by itself, and none waits for a lock.
async fn make_rounds_endless(database: &TestDatabase) {
    database
        .run(
            "create function never_end() returns trigger language plpgsql as \
             'begin perform pg_sleep(3600); return new; end'; \
             create trigger slow before update on users for each row execute function never_end()",
        )
        .await;
}
