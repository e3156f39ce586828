//! The checker reports nothing about a correct history, and finds each kind of error.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod answers;
mod audit;

use std::time::Instant;

use serde_json::json;
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use testkit::{Checker, Observation, Program, TEST_TIMEOUT, TestDatabase};

async fn checked(users: i64) -> (TestDatabase, Checker) {
    let database = TestDatabase::with_users(users).await;
    let checker = Checker::install(&database).await;
    (database, checker)
}

async fn round(database: &TestDatabase) {
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        MinPoints::draw(),
        TEST_TIMEOUT,
    )
    .await
    .unwrap();
}

/// Answers a query as a replica does, and records it.
async fn query(database: &TestDatabase, checker: &Checker) {
    let mut api = database.replica_session().await;
    let sent_at = Instant::now();
    let answer = api.answer().await.unwrap();
    checker.record(Observation {
        sent_at,
        received_at: Instant::now(),
        users: (answer.users.iter())
            .map(|user| json!({"id": user.id, "points": user.points}))
            .collect(),
        timestamp: answer
            .previous_at
            .map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
    });
}

#[tokio::test]
async fn a_correct_history_is_clean() {
    let (database, checker) = checked(100).await;
    query(&database, &checker).await;
    for _ in 0..5 {
        round(&database).await;
        for _ in 0..5 {
            query(&database, &checker).await;
        }
    }
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rounds, report.answers), (5, 26));
    assert_eq!((report.moves, report.lost_first_answers), (26, 0));
}

#[tokio::test]
async fn a_test_ignores_the_environment_of_another_server() {
    // A test of this binary, in a process with that environment.
    let mut program = Program::spawn({
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_correct_history_is_clean"])
            .env("PGSSLMODE", "require")
            .env("PGOPTIONS", "-cwork_mem=1MB")
            .env("PGHOST", "nowhere")
            .env("PGDATESTYLE", "no such style");
        command
    });
    program.wait_for_output("1 passed").await;
    assert!(program.wait().await.success());
}
