//! The promises that the statements of `shared` keep by themselves, over a real Postgres.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics when it cannot continue"
)]

use std::time::Duration;

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

/// How long the writes of a round may take in a test: far longer than on a slow machine.
const ROUND_TIMEOUT: Duration = Duration::from_mins(1);
