//! Starts database, workers and replicas in this order, and stops them in reverse.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::exit;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use indicatif::HumanCount;
use private_postgres::DATABASE_URL_FILE;
use shared::db::{Database, close};
use shared::domain::rounds;
use shared::program::shutdown::StopSignals;
use shared::program::{cli, healthcheck, logs};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tracing::info;
use worker::Schedule;

use crate::CONNECT_TIMEOUT;
use crate::address::reserve;
use crate::database::{self, Urls};
use crate::postgres::Postgres;
use crate::programs::{Processes, Program};
use crate::screen::Screen;
use crate::settings::Settings;

/// How often to check a condition while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Any free port, for the admin listener of each process.
const ANY_PORT: &str = "127.0.0.1:0";

/// What runs, in the order of stopping.
#[derive(Default)]
struct Running {
    replicas: Option<Processes>,
    workers: Option<Processes>,
    postgres: Postgres,
}

/// Starts everything, and stops it after a signal or an error.
///
/// # Errors
/// When something can't be started.
pub(crate) async fn launch(settings: Settings, screen: Screen) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    let mut running = Running::default();
    let outcome = tokio::select! {
        outcome = run(&settings, screen, &mut running) => outcome,
        signal = signals.next() => {
            info!(signal, "stopping");
            // The terminal has shown ^C, and the cursor stands behind it.
            screen.show("");
            Ok(())
        }
    };
    let step = screen.begin("stopping");
    tokio::select! {
        () = running.stop() => step.end("Max Two has stopped"),
        signal = signals.next() => {
            // The guards end the processes that are left.
            info!(signal, "second signal: exiting at once");
            logs::flush();
            exit(1);
        }
    }
    outcome
}

async fn run(settings: &Settings, screen: Screen, running: &mut Running) -> anyhow::Result<()> {
    // Held to the end: the port must stay reserved while a replica is restarted.
    let (_reservation, listen) = reserve(settings.listen)
        .with_context(|| format!("LISTEN {} can't be used", settings.listen))?;
    let urls = database::prepare(settings, screen, &mut running.postgres).await?;
    let owner = Database::parse(&urls.owner, "max-two")?;
    let step = screen.begin_without_line();
    worker::seed(&owner, settings.users)
        .await
        .context("seeding")?;
    step.end(&format!(
        "{} users are there",
        HumanCount(settings.users.cast_unsigned())
    ));
    let step = screen.begin("the first round");
    running.workers = Some(Processes::start(workers(settings, screen, &urls))?);
    wait_for_first_round(&owner, &settings.schedule).await?;
    step.end("the round of this tick is done");
    let step = screen.begin("starting the replicas");
    running.replicas = Some(Processes::start(replicas(settings, screen, listen, &urls))?);
    wait_until_ready(listen).await;
    step.end("a replica answers");
    print_ready(listen, urls.folder.as_deref());
    running.postgres.supervise().await
}

/// Prints how to go on. A database's URL may hold a password, so it is not printed.
fn print_ready(listen: SocketAddr, folder: Option<&Path>) {
    cli::print(&format_args!("Max Two is ready: http://{listen}/"));
    cli::print(&format_args!("    curl http://{listen}/"));
    let Some(folder) = folder else {
        cli::print(&"Ctrl-C stops it.");
        cli::print(&"Its database: that of DATABASE_URL");
        return;
    };
    cli::print(&format_args!(
        "Ctrl-C stops it. The next start goes on with the data in {}",
        folder.display()
    ));
    let file = shell_word(&folder.join(DATABASE_URL_FILE));
    cli::print(&format_args!("Its database: psql \"$(cat {file})\""));
}

impl Running {
    /// Stops replicas, then workers, then Postgres.
    async fn stop(&mut self) {
        for processes in [self.replicas.take(), self.workers.take()]
            .into_iter()
            .flatten()
        {
            processes.stop().await;
        }
        self.postgres.stop().await;
    }
}

/// The settings of the processes' logs.
fn log_settings(
    settings: &Settings,
    screen: Screen,
) -> impl Iterator<Item = (&'static str, OsString)> {
    let format = settings
        .log_format
        .and_then(|format| format.to_possible_value());
    let filters = screen.is_for_people().then(|| screen.log_filters().into());
    format
        .map(|format| ("LOG_FORMAT", format.get_name().into()))
        .into_iter()
        .chain(filters.map(|filters| ("RUST_LOG", filters)))
}

fn workers(settings: &Settings, screen: Screen, urls: &Urls) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.worker.clone().into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        ("SCHEDULE", settings.schedule.to_string().into()),
    ];
    environment.extend(log_settings(settings, screen));
    (1..=settings.workers).map(move |number| Program {
        name: format!("worker {number}"),
        subcommand: "worker",
        environment: environment.clone(),
    })
}

fn replicas(
    settings: &Settings,
    screen: Screen,
    listen: SocketAddr,
    urls: &Urls,
) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.api.clone().into()),
        ("LISTEN", listen.to_string().into()),
        ("REUSE_PORT", "true".into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        // There is no load balancer that must notice the stop.
        ("DRAIN_DELAY", "0s".into()),
    ];
    environment.extend(log_settings(settings, screen));
    (1..=settings.replicas).map(move |number| Program {
        name: format!("api replica {number}"),
        subcommand: "api",
        environment: environment.clone(),
    })
}

/// Waits until a worker has done the latest due tick. Returns at once if the schedule has had none.
async fn wait_for_first_round(owner: &Database, schedule: &Schedule) -> anyhow::Result<()> {
    let mut session = owner
        .connect(CONNECT_TIMEOUT)
        .await
        .context("connecting to the database")?;
    let now = rounds::read_fence(&mut session)
        .await?
        .transaction_started_at;
    if let Some(due) = schedule.latest_tick(now) {
        info!(tick_at = %due, "waiting for the first round");
        while rounds::read_fence(&mut session)
            .await?
            .fence
            .is_none_or(|fence| fence.tick_at < due)
        {
            sleep(POLL_INTERVAL).await;
        }
    }
    close(session).await;
    Ok(())
}

/// Waits until a replica is ready. It sends no query, because the very first query gets a special
/// answer, which belongs to the user.
async fn wait_until_ready(listen: SocketAddr) {
    while block_in_place(|| healthcheck::check(listen, "/readyz")).is_err() {
        sleep(POLL_INTERVAL).await;
    }
}

/// A path as one word for a shell.
fn shell_word(path: &Path) -> String {
    let path = path.to_string_lossy();
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "/._-".contains(character);
    if path.chars().all(is_plain) {
        path.into_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}
