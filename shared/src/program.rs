//! What the programs share beside the domain: their start ([`run`]), command-line settings
//! ([`cli`]), [`logs`], [`metrics`], listening sockets ([`listener`]), stop signals ([`shutdown`])
//! and health checks ([`healthcheck`]).

pub mod cli;
pub mod healthcheck;
pub mod listener;
pub mod logs;
pub mod metrics;
pub mod shutdown;

use std::fmt::Display;
use std::io;
use std::num::NonZero;
use std::panic;
use std::process::{self, ExitCode};
use std::thread::available_parallelism;

use tokio::runtime::{self, Runtime};

use crate::db::Database;
use cli::{DatabaseArgs, bad_setting};
use logs::LogFormat;

/// Maximum number of a runtime's worker threads: containers limit threads, and the machine may have
/// hundreds of processors. What needs more than this takes another replica.
const MAX_WORKER_THREADS: usize = 8;

/// A program that uses the database.
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
    let runtime = match start_runtime(&mut program.runtime) {
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

/// Starts a runtime. One with several threads gets a worker thread for each processor, up to a
/// maximum. Ends the process with one line and status 1 where threads can't be started.
///
/// # Errors
/// When the kernel refuses what else a runtime needs.
pub fn start_runtime(builder: &mut runtime::Builder) -> io::Result<Runtime> {
    // Tokio panics where it can't start a thread, and unwinding would wait for ever for those that
    // it has started.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|panic| {
        logs::flush();
        let reason = panic.payload_as_str().unwrap_or_default();
        cli::print_error(&format_args!("error: starting the runtime: {reason}"));
        process::exit(1);
    }));
    let processors = available_parallelism().map_or(1, NonZero::get);
    let runtime = builder
        .worker_threads(processors.min(MAX_WORKER_THREADS))
        .enable_all()
        .build()
        .and_then(|runtime| {
            // It starts one more thread when a name is looked up.
            runtime.block_on(runtime.spawn_blocking(|| ()))?;
            Ok(runtime)
        });
    panic::set_hook(hook);
    runtime
}
