//! The promises that the statements keep by themselves, over a real Postgres.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod last_query;
mod roles;
mod rounds;
mod storage;
mod tls;
mod users;
