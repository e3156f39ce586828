//! What the tests of all packages share: a database for each test, programs as processes, a network with weather, a
//! client, and a checker of all that was seen.
//!
//! Everything here panics where a test could not go on. The server that a test binary starts ends with it, however the
//! binary ends.

#![allow(
    clippy::missing_panics_doc,
    reason = "all of it panics where a test could not go on"
)]

mod checker;
mod client;
mod database;
mod program;
mod proxy;

pub use checker::{Checker, Observation, Report};
pub use client::{Client, Reply};
pub use database::TestDatabase;
pub use program::Program;
pub use proxy::{NetworkFault, Proxy};

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How long a condition may take to come true before its test fails: far longer than it takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// An address on the loopback interface that nobody listens on, for a program that is to listen there.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there is a free port")
}
