//! What the programs share beside the domain: their start ([`run`]), command-line settings
//! ([`cli`]), logs ([`logs`]), stop signals ([`shutdown`]) and health checks ([`healthcheck`]).

pub mod cli;
pub mod healthcheck;
pub mod logs;
pub mod shutdown;

use std::fmt::Display;
use std::process::ExitCode;

use tokio::runtime;
use tracing::{error, warn};

use crate::db::Database;
use cli::{DatabaseArgs, bad_setting};
use logs::LogFormat;

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

/// A program that uses the database.
#[derive(Debug)]
pub struct Program {
    /// Its name. Its sessions show up in `pg_stat_activity` under it.
    pub name: &'static str,
    /// The runtime that its work runs on.
    pub runtime: runtime::Builder,
    /// The format of its log lines, as for [`logs::start`].
    pub log_format: Option<LogFormat>,
    /// The log filters that hold unless `RUST_LOG` is set.
    pub log_filters: &'static str,
    /// The `event` of the log line with which it fails.
    pub failure_event: &'static str,
    /// Its database.
    pub database: DatabaseArgs,
}

/// Runs a program: starts its log and its runtime, and does its work. Returns the status to exit
/// with: 2 after a bad setting, 1 after an error of the work, which is logged.
pub fn run<Work, Error>(mut program: Program, work: impl FnOnce(Database) -> Work) -> ExitCode
where
    Work: Future<Output = Result<(), Error>>,
    Error: Display,
{
    let _log = match logs::start(program.log_format, program.log_filters) {
        Ok(log) => log,
        Err(error) => return bad_setting(&error),
    };
    let database = match program.database.parse(program.name) {
        Ok(database) => database,
        Err(error) => return bad_setting(&error),
    };
    if let Some(risk) = database.tls_warning() {
        warn!(
            event = "tls_insecure",
            "the database connection is not secure: {risk}; \
             set sslmode=verify-full, and sslrootcert to the server's certificate authority"
        );
    }
    let fail = |error: &dyn Display| {
        error!(
            event = program.failure_event,
            "{} failed: {error:#}", program.name
        );
        ExitCode::FAILURE
    };
    let runtime = match program.runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format_args!("starting the runtime: {error}")),
    };
    let result = runtime.block_on(work(database));
    // Without waiting for a DNS lookup that is still running.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
