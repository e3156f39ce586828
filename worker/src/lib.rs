//! The worker: a tick comes in, one transaction goes out.
//!
//! Any number of workers may run; the database decides which of them does a tick. Nothing here promises that a wake-up
//! comes in time: the worker also looks for itself, every two seconds.

mod admin;
mod metrics;
mod schedule;
mod seed;
mod settings;
mod tick;

pub use schedule::Schedule;
pub use seed::seed;
pub use settings::{Command, Settings};

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use shared::db::{Database, goodbye, warn_of_weakness};
use shared::shutdown::StopSignals;
use shared::{MinPoints, cli, rounds, schema, telemetry};
use tokio::runtime;
use tracing::{error, info};

/// How long a command waits for the database at its start.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(settings: Settings) -> ExitCode {
    if let Err(error) = telemetry::start(settings.log_format, schedule::LOG_FILTERS) {
        return cli::bad_setting(&error);
    }
    let database = match settings.database() {
        Ok(database) => database,
        Err(error) => return cli::bad_setting(&error),
    };
    warn_of_weakness(&database);
    let result = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(command(settings, database)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("the worker ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn command(settings: Settings, database: Database) -> anyhow::Result<()> {
    let Some(command) = settings
        .command
        .clone()
        .filter(|command| !matches!(command, Command::Run))
    else {
        return tick::run(settings, database).await;
    };
    let mut signals = StopSignals::listen().context("listening for signals")?;
    tokio::select! {
        outcome = once(command, &settings, &database) => outcome,
        // What it was at is rolled back by the server, which sees us go.
        signal = signals.next() => bail!("stopped by {signal}"),
    }
}

/// What is done once, and not until a signal.
async fn once(command: Command, settings: &Settings, database: &Database) -> anyhow::Result<()> {
    match command {
        Command::Run => {}
        Command::Migrate => {
            let mut connection = database.connect(CONNECT).await?;
            schema::migrate(&mut connection).await?;
            goodbye(connection).await;
            info!("the schema is up to date");
        }
        Command::Seed { users } => seed(database, users).await?,
        Command::Round { min_points } => {
            let mut connection = database.connect(CONNECT).await?;
            let minimum = min_points.unwrap_or_else(MinPoints::draw);
            let round =
                rounds::now(&mut connection, minimum, settings.round_timeout.into()).await?;
            goodbye(connection).await;
            println!(
                "round done: {} users renewed in {} ms",
                round.users_updated,
                (round.finished_at - round.started_at).num_milliseconds()
            );
        }
    }
    Ok(())
}
