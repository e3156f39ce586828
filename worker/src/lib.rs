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
pub use settings::Settings;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use shared::db::{Database, Error, close, warn_about_tls};
use shared::shutdown::StopSignals;
use shared::{MinPoints, cli, healthcheck, rounds, schema, telemetry, users};
use tokio::runtime;
use tracing::{error, info};

use settings::{Command, Job};

/// How long a command waits for the database at its start.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(mut settings: Settings) -> ExitCode {
    let job = match settings.command.take() {
        Some(Command::Healthcheck) => return healthcheck::run(settings.admin_listen),
        Some(Command::Job(job)) => job,
        None => Job::Run,
    };
    if let Err(error) = telemetry::start(settings.log_format, schedule::LOG_FILTERS) {
        return cli::bad_setting(&error);
    }
    let database = match settings.database.database("max-two-worker") {
        Ok(database) => database,
        Err(error) => return cli::bad_setting(&error),
    };
    warn_about_tls(&database);
    let result = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(job, settings, database)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("the worker ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(job: Job, settings: Settings, database: Database) -> anyhow::Result<()> {
    match job {
        Job::Run => tick::run(settings, database).await,
        Job::Migrate => unless_stopped(migrate(&database)).await,
        Job::Seed { users } => unless_stopped(seed(&database, users)).await,
        Job::Round { min_points } => {
            let minimum = min_points.unwrap_or_else(MinPoints::draw);
            let limit = settings.round_timeout.into();
            unless_stopped(round(&database, minimum, limit)).await
        }
    }
}

/// What is done once, but not after a signal: what it was at is rolled back by the server, which sees us go.
async fn unless_stopped(job: impl Future<Output = Result<(), Error>>) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("listening for signals")?;
    tokio::select! {
        outcome = job => Ok(outcome?),
        signal = signals.next() => bail!("stopped by {signal}"),
    }
}

async fn migrate(database: &Database) -> Result<(), Error> {
    let mut connection = database.connect(CONNECT).await?;
    schema::migrate(&mut connection).await?;
    close(connection).await;
    info!("the schema is up to date");
    Ok(())
}

async fn round(database: &Database, minimum: MinPoints, limit: Duration) -> Result<(), Error> {
    let mut connection = database.connect(CONNECT).await?;
    let layout = users::layout(&mut connection).await?;
    let round = rounds::run_now(&mut connection, layout, minimum, limit).await?;
    close(connection).await;
    println!(
        "round done: {} users renewed in {} ms",
        round.users_updated,
        (round.finished_at - round.started_at).num_milliseconds()
    );
    Ok(())
}
