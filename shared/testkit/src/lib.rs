//! What the tests of all packages share: a database for each test, programs as processes, a proxy
//! with network faults, an HTTP client, and a checker of what was answered and committed.
//!
//! The server that a test binary starts stops with it, however the binary ends.

#![allow(
    clippy::missing_panics_doc,
    reason = "everything here panics where a test can't go on"
)]

mod checker;
mod client;
mod database;
mod program;
mod proxy;
pub mod settings;
pub mod sql;

pub use checker::Checker;
pub use client::{Client, Reply};
pub use database::{LOCK_ROUNDS, TestDatabase};
pub use program::TestProgram;
pub use proxy::{NetworkFault, Proxy, url_through};

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How long a test waits for anything before it fails: far longer than a slow machine takes.
pub const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// How often to check a condition while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds. After [`TEST_TIMEOUT`] it panics, and names `what` was expected.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "not within {TEST_TIMEOUT:?}: {what}"
        );
        sleep(POLL_INTERVAL).await;
    }
}

/// An address on the loopback interface that no process listens on at this moment. Another process
/// can take it before the program under test does, so use it only for a program that can't listen
/// on port 0. One that can logs its address: see [`TestProgram::address`].
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("there is a free port")
}
