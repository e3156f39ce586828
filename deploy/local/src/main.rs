//! `max-two`: runs the whole service on this machine, for a first try and for development.
//!
//! It starts a private Postgres (unless `DATABASE_URL` is set), workers and replicas, as processes
//! that end with this one. Workers and replicas are this program again, started with
//! a hidden subcommand.

mod database;
mod launch;
mod postgres;
mod processes;
mod settings;

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::{env, io};

use private_postgres::postgres_variables;
use settings::{Settings, Subcommand};
use shared::program::{self, cli, logs};
use tokio::runtime;
use tracing::error;

fn main() -> ExitCode {
    let settings = match cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    match settings.subcommand {
        Some(Subcommand::Api(settings)) => return api::main(*settings),
        Some(Subcommand::Worker(settings)) => return worker::main(*settings),
        None => {}
    }
    let filters = if logs_to_terminal() {
        "warn,max_two=info"
    } else {
        "info"
    };
    if let Err(error) = logs::start(settings.log_format, filters) {
        return cli::bad_setting(&error);
    }
    if let Err(error) = settings.check() {
        return cli::bad_setting(&format_args!("{error:#}"));
    }
    // If DATABASE_URL is set, the variables PG* complete it, as in any other client.
    if settings.database_url.is_none()
        && let Err(error) = restart_without_postgres_variables()
    {
        error!("max-two can't start itself again without the variables PG*: {error}");
        logs::flush();
        return ExitCode::FAILURE;
    }
    program::block_on(runtime::Builder::new_multi_thread(), async {
        let launched = launch::launch(settings).await;
        launched.inspect_err(|error| error!("max-two failed: {error:#}"))
    })
}

/// Whether a person reads the log. If so, the log shows the launcher's steps, and only warnings of
/// the processes that it starts.
fn logs_to_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Replaces this process by the same program without the variables `PG*`, if there are any: they
/// are meant for another server than the private one, and sqlx would read them here, in the workers
/// and in the replicas.
fn restart_without_postgres_variables() -> io::Result<()> {
    let variables = postgres_variables();
    if variables.is_empty() {
        return Ok(());
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1));
    for variable in variables {
        command.env_remove(variable);
    }
    Err(command.exec())
}
