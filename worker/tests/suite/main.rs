//! The worker as a process, over a real Postgres.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod commands;
mod faults;
mod run;
mod secrecy;

use testkit::{Program, TestDatabase};

/// The worker, under its own role, with an admin port of its own.
fn worker(database: &TestDatabase, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
    let common = [
        ("DATABASE_URL", &*database.worker),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    start(arguments, common.iter().chain(environment))
}

fn start<'a>(
    arguments: &[&str],
    environment: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> Program {
    Program::start(
        env!("CARGO_BIN_EXE_max-two-worker"),
        arguments,
        environment.into_iter().copied(),
    )
}
