//! All SQL of the programs, and what else they share.
//!
//! [`users`], [`rounds`] and [`last_query`] are named for the table that they write, and `choice`
//! writes `settings`. Every other module has one duty: database sessions ([`db`]), a clock that
//! was ahead ([`clock`]), migrations ([`schema`]), command-line settings ([`cli`]), logs
//! ([`telemetry`]), health checks ([`healthcheck`]) and stop signals ([`shutdown`]). Nothing here
//! serves HTTP or depends on a scheduler.

mod choice;
pub mod cli;
pub mod clock;
pub mod db;
pub mod healthcheck;
pub mod last_query;
pub mod rounds;
pub mod schema;
pub mod shutdown;
pub mod telemetry;
pub mod users;

pub use choice::MinPoints;

/// The labels of each program's `build_info`. The revision is that of git, which a build may pass
/// in `REVISION`.
pub const BUILD_LABELS: [(&str, &str); 2] = [
    ("version", env!("CARGO_PKG_VERSION")),
    (
        "revision",
        match option_env!("REVISION") {
            Some(revision) => revision,
            None => "unknown",
        },
    ),
];
