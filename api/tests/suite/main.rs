//! The replica as a process, over a real Postgres.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod clients;
mod contract;
mod database;
mod environment;
mod listeners;
mod logs;
mod raw;
mod requests;
mod settings;
mod stop;

use shared::db::Session;
use shared::domain::rounds;
use testkit::{Client, TEST_TIMEOUT, TestDatabase, TestProgram, eventually};

/// A replica under its own role, on ports of its own, and a client of it. Its request timeout is
/// long, because other tests use the server at the same time; `environment` may set another.
async fn start_replica(
    database: &TestDatabase,
    environment: &[(&str, &str)],
) -> (TestProgram, Client) {
    let common = [
        ("DATABASE_URL", &*database.api_url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        ("REQUEST_TIMEOUT", "50s"),
    ];
    let mut program = start_program(&[], &[&common, environment].concat());
    let client = Client::new(program.address("listen").await);
    (program, client)
}

/// The replica's program with nothing but these settings.
fn start_program(arguments: &[&str], environment: &[(&str, &str)]) -> TestProgram {
    let environment = environment.iter().copied();
    TestProgram::start(env!("CARGO_BIN_EXE_max-two-api"), arguments, environment)
}

/// A client of the replica's admin listener.
async fn admin_client(program: &mut TestProgram) -> Client {
    Client::new(program.address("admin").await)
}

/// Waits until the replica is ready.
async fn wait_until_ready(client: &Client) {
    eventually("it is ready", async || {
        client.get("/readyz").await.status == 200
    })
    .await;
}

/// Does a round with this minimum.
async fn round(database: &TestDatabase, minimum: &str) {
    let mut worker = database.connect(&database.worker_url).await;
    let minimum = minimum.parse().unwrap();
    rounds::run_now(&mut worker, minimum, TEST_TIMEOUT)
        .await
        .unwrap();
}

/// A session that holds the row which every query moves, until it is closed.
async fn lock_last_query(database: &TestDatabase) -> Session {
    database.begin("select from last_query for update").await
}

/// Ends all sessions of replicas.
async fn end_sessions(database: &TestDatabase) {
    database
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and usename = 'max_two_api'",
        )
        .await;
}
