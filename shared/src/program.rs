//! What the programs share beside the domain: their start ([`run`]), command-line settings
//! ([`cli`]), [`logs`], [`metrics`], listening sockets ([`listener`]), stop signals ([`shutdown`])
//! and health checks ([`healthcheck`]).

pub mod cli;
pub mod healthcheck;
pub mod listener;
pub mod logs;
pub mod metrics;
pub mod shutdown;

use std::num::NonZero;
use std::panic;
use std::process::{self, ExitCode};
use std::thread::available_parallelism;

use tokio::runtime::{self, Runtime};
use tracing::warn;

use crate::db::Database;
use cli::{DatabaseArgs, bad_setting};
use logs::LogFormat;

/// Maximum number of worker threads: containers limit threads, and the machine may have hundreds of
/// processors. To use more of them, run more replicas.
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
    /// Its database.
    pub database: DatabaseArgs,
}

/// Runs a program: starts its log, and does its work. Returns the status to exit with: 2 after a
/// bad setting, 1 after an error, which the work has logged.
pub fn run<E>(program: Program, work: impl AsyncFnOnce(Database) -> Result<(), E>) -> ExitCode {
    if let Err(error) = logs::start(program.log_format, program.log_filters) {
        return bad_setting(&error);
    }
    match program.database.parse(program.name) {
        Ok(database) => {
            if !database.is_secure() {
                warn!(
                    event = "tls_insecure",
                    "the database connection is not secure: passwords may be sent in the clear, or \
                     to any server; set sslmode=verify-full, and sslrootcert to the server's \
                     certificate authority"
                );
            }
            block_on(program.runtime, work(database))
        }
        Err(error) => bad_setting(&error),
    }
}

/// Does the work of a program on a new runtime, and flushes its log. Returns the status to exit
/// with: 1 after an error, which the work has logged.
pub fn block_on<E>(
    runtime: runtime::Builder,
    work: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let runtime = start_runtime(runtime);
    let result = runtime.block_on(work);
    // Without waiting for its other threads: one may be in a DNS lookup, or download Postgres.
    runtime.shutdown_background();
    logs::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts a runtime. One with several threads gets a worker thread for each processor, up to a
/// maximum. Where it can't start, the process ends with one line and status 1.
fn start_runtime(mut builder: runtime::Builder) -> Runtime {
    // Tokio panics if it can't start a thread. Unwinding would then wait forever for the threads
    // that have started. So the process exits in the panic hook.
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
        .unwrap_or_else(|error| panic!("{error}"));
    // A DNS lookup needs a thread for blocking work. Start one now, to fail here and not later.
    let started = runtime.block_on(runtime.spawn_blocking(|| ()));
    started.expect("a task that does nothing ends");
    panic::set_hook(hook);
    runtime
}
