//! The worker: at each tick of its schedule, one transaction.
//!
//! Any number of workers may run; the database decides which of them does a round. The scheduler
//! may be late or silent: the worker also checks for a due round without it.

mod admin;
mod commands;
mod health;
mod metrics;
mod outcome_log;
mod runner;
mod schedule;
mod seed;
mod settings;

pub use schedule::Schedule;
pub use seed::seed;
pub use settings::Settings;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use shared::db::Database;
use shared::domain::MinPoints;
use shared::program::listener::listen;
use shared::program::shutdown::StopSignals;
use shared::program::{self, Program, healthcheck};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::mpsc;
use tracing::{error, info};

use health::Health;
use metrics::Metrics;
use runner::RoundRunner;
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
        database: settings.database.clone(),
    };
    program::run(program, async |database| {
        run(command, settings, database)
            .await
            .inspect_err(|error| error!(event = "worker_failed", "worker failed: {error:#}"))
    })
}

async fn run(
    command: DatabaseCommand,
    settings: Settings,
    database: Database,
) -> anyhow::Result<()> {
    match command {
        DatabaseCommand::Run => run_rounds(settings, database).await,
        DatabaseCommand::Migrate => commands::until_signal(commands::migrate(&database)).await,
        DatabaseCommand::Seed { users } => {
            commands::until_signal(seed(&database, users)).await?;
            Ok(())
        }
        DatabaseCommand::Round { min_points } => {
            let min_points = min_points.unwrap_or_else(MinPoints::draw);
            let timeout = settings.round_timeout;
            commands::until_signal(commands::round(&database, min_points, timeout)).await
        }
    }
}

/// Does a round for each tick until a signal. Several missed ticks are one round.
///
/// # Errors
/// When the signal handlers, the admin listener or the scheduler can't be started, or the admin
/// listener ends. A failed round is not an error here.
async fn run_rounds(settings: Settings, database: Database) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::new());
    let listener = listen(settings.admin_listen, false)
        .and_then(TcpListener::from_std)
        .with_context(|| format!("ADMIN_LISTEN {} can't be used", settings.admin_listen))?;
    info!(
        event = "worker_starting",
        admin = %listener.local_addr()?,
        schedule = %settings.schedule,
        cooldown_seconds = settings.cooldown.as_secs_f64(),
        "worker starting"
    );
    let admin = tokio::spawn(admin::serve(
        listener,
        Arc::clone(&health),
        Arc::clone(&metrics),
    ));
    let (sender, mut wakeups) = mpsc::channel(1);
    let _scheduler = settings
        .schedule
        .start_scheduler(sender)
        .await
        .context("starting the scheduler")?;
    let runner = RoundRunner::new(settings, &database, health, metrics);
    let signal = tokio::select! {
        signal = signals.next() => signal,
        never = runner.run(&mut wakeups) => match never {},
        outcome = admin => bail!("the admin listener has ended: {outcome:?}"),
    };
    info!(event = "worker_stopped", signal, "worker stopped");
    Ok(())
}
