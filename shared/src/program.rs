//! What the programs share beside the domain: their start ([`run`]), command-line settings
//! ([`cli`]), logs ([`logs`]), stop signals ([`shutdown`]) and health checks ([`healthcheck`]).

pub mod backoff;
pub mod cli;
pub mod healthcheck;
pub mod logs;
pub mod metrics;
pub mod shutdown;

use std::fmt::Display;
use std::process::ExitCode;

use tokio::runtime;

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
    /// Logs the error that it fails with. The program passes it, so that the line has the log
    /// target of the program.
    pub log_failure: fn(&dyn Display),
    /// Its database.
    pub database: DatabaseArgs,
}

/// Runs a program: starts its log and its runtime, and does its work. Returns the status to exit
/// with: 2 after a bad setting, 1 after a failure.
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
    database.warn_about_tls();
    let fail = |error: &dyn Display| {
        (program.log_failure)(error);
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
