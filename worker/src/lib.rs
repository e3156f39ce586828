//! The worker: a tick comes in, one transaction goes out.
//!
//! Any number of workers may run; the database decides which of them does a round. The scheduler
//! may be late or silent: the worker also checks for a due round every two seconds.

mod admin;
mod clock_check;
mod health;
mod lag;
mod metrics;
mod outcome_log;
mod round_loop;
mod runner;
mod schedule;
mod seed;
mod settings;

pub use schedule::{Schedule, ScheduleError};
pub use seed::seed;
pub use settings::Settings;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use shared::db::{COMMAND_CONNECT_TIMEOUT, Database, Error, close};
use shared::program::shutdown::StopSignals;
use shared::program::{self, Program, cli, healthcheck};
use shared::{MinPoints, rounds, schema, users};
use tokio::runtime;
use tracing::info;

use settings::{Command, DatabaseCommand};

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(mut settings: Settings) -> ExitCode {
    let command = match settings.command.take() {
        Some(Command::Healthcheck) => return healthcheck::run(settings.admin_listen),
        Some(Command::Database(command)) => command,
        None => DatabaseCommand::Run,
    };
    let program = Program {
        name: "max-two-worker",
        runtime: runtime::Builder::new_current_thread(),
        log_format: settings.log_format,
        log_filters: schedule::LOG_FILTERS,
        failure_event: "worker_failed",
        database: settings.database.clone(),
    };
    program::run(program, |database| run(command, settings, database))
}

async fn run(
    command: DatabaseCommand,
    settings: Settings,
    database: Database,
) -> anyhow::Result<()> {
    match command {
        DatabaseCommand::Run => round_loop::run(settings, database).await,
        DatabaseCommand::Migrate => run_command(migrate(&database)).await,
        DatabaseCommand::Seed { users } => run_command(seed(&database, users)).await,
        DatabaseCommand::Round { min_points } => {
            let min_points = min_points.unwrap_or_else(MinPoints::draw);
            let timeout = settings.round_timeout.into();
            run_command(round(&database, min_points, timeout)).await
        }
    }
}

/// Runs a one-off command. A signal ends it with an error: the connection closes, and the server
/// rolls the open transaction back.
async fn run_command(command: impl Future<Output = Result<(), Error>>) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    tokio::select! {
        result = command => Ok(result?),
        signal = signals.next() => bail!("stopped by {signal}"),
    }
}

async fn migrate(database: &Database) -> Result<(), Error> {
    let mut session = database.connect(COMMAND_CONNECT_TIMEOUT).await?;
    schema::migrate(&mut session).await?;
    close(session).await;
    info!(event = "migrated", "the schema is up to date");
    Ok(())
}

async fn round(database: &Database, min_points: MinPoints, timeout: Duration) -> Result<(), Error> {
    let database = database.clone().statement_timeout(timeout);
    let mut session = database.connect(COMMAND_CONNECT_TIMEOUT).await?;
    let layout = users::layout(&mut session).await?;
    let round = rounds::run_now(&mut session, layout, min_points, timeout).await?;
    close(session).await;
    // An operator runs this command to see its result. `migrate` and `seed` also run unattended, so
    // they report to the log.
    cli::print(&format_args!(
        "round done: {} users renewed in {} ms",
        round.users_updated,
        (round.finished_at - round.started_at).num_milliseconds()
    ));
    Ok(())
}
