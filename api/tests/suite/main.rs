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
mod fuzz;
mod logs;
mod raw_http;
mod settings;
mod stop;

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use testkit::{Client, Program, TEST_TIMEOUT, TestDatabase, eventually};
use tokio::time::sleep;

/// A replica under its own role, on ports of its own, and a client of it. Its request timeout is
/// long, because other tests use the server at the same time; `environment` may set another.
async fn replica(database: &TestDatabase, environment: &[(&str, &str)]) -> (Program, Client) {
    let common = [
        ("DATABASE_URL", &*database.api),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        ("REQUEST_TIMEOUT", "50s"),
    ];
    let environment = common.into_iter().chain(environment.iter().copied());
    let environment: Vec<_> = environment.collect();
    let mut program = program(&[], &environment);
    let client = Client::new(program.address("listen").await);
    (program, client)
}

/// The replica's program with nothing but these settings.
fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Program {
    let environment = environment.iter().copied();
    Program::start(env!("CARGO_BIN_EXE_max-two-api"), arguments, environment)
}

/// A client of the replica's admin listener.
async fn admin(program: &mut Program) -> Client {
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
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        minimum.parse::<MinPoints>().unwrap(),
        TEST_TIMEOUT,
    )
    .await
    .unwrap();
}

/// Signals a replica until it has ended. Only a signal that comes a second after the first stop
/// counts as another one.
async fn stop_at_once(program: &mut Program) -> ExitStatus {
    let id = program.id();
    let signals = async {
        loop {
            // It fails once the replica has ended.
            let _ = kill(id, Signal::SIGTERM);
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        status = program.wait() => status,
        () = signals => unreachable!("it signals for ever"),
    }
}
