//! What the tests of all packages share: a database for each test, programs as processes, a proxy
//! with network faults, an HTTP client, and a checker of what was answered and committed.
//!
//! Everything here panics where a test can't go on. The server that a test binary starts stops with
//! it, however the binary ends.

#![allow(
    clippy::missing_panics_doc,
    reason = "everything here panics where a test can't go on"
)]

mod address;
mod checker;
mod client;
mod database;
mod program;
mod proxy;
pub mod sql;

pub use address::{ReservedAddress, free_address};
pub use checker::{Checker, Observation, Report};
pub use client::{Client, Reply};
pub use database::TestDatabase;
pub use program::Program;
pub use proxy::{NetworkFault, Proxy};

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// How long a test waits for anything before it fails: far longer than a slow machine takes.
pub const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// How often to check a condition while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within [`TEST_TIMEOUT`]. The message names `what` was expected.
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
