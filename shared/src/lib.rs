//! The domain of Max Two, and all of its SQL.
//!
//! `users`, `settings`, `rounds` and `last_query` are named as their tables and hold the statements over them. The rest
//! is one duty each: the way to the database ([`db`]), the schema, settings of programs ([`cli`]), logs ([`telemetry`]),
//! probing ([`probe`]) and stopping ([`shutdown`]). Nothing here serves HTTP or knows a scheduler.

mod choice;
pub mod cli;
pub mod db;
pub mod healthcheck;
pub mod last_query;
pub mod rounds;
pub mod schema;
pub mod shutdown;
pub mod telemetry;
pub mod users;

pub use choice::MinPoints;
