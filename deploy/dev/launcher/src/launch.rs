//! Starts database, workers and replicas in this order, and stops them in reverse.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::exit;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use shared::db::{Database, close};
use shared::shutdown::StopSignals;
use shared::{cli, healthcheck, rounds, telemetry};
use tokio::time::sleep;
use tracing::info;
use worker::Schedule;

use crate::CONNECT_TIMEOUT;
use crate::address::reserve;
use crate::database::{self, Urls};
use crate::postgres::Postgres;
use crate::programs::{Fleet, Program};
use crate::settings::Settings;

/// How often to check a condition while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Any free port, for the admin listener of each process.
const ANY_PORT: &str = "127.0.0.1:0";

/// What runs, in the order of stopping.
#[derive(Default)]
struct Running {
    replicas: Option<Fleet>,
    workers: Option<Fleet>,
    postgres: Postgres,
}

/// Starts everything, and stops it after a signal or an error.
///
/// # Errors
/// When something can't be started.
pub(crate) async fn launch(settings: Settings) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    let mut running = Running::default();
    let outcome = tokio::select! {
        outcome = run(&settings, &mut running) => outcome,
        signal = signals.next() => {
            info!(signal, "stopping");
            Ok(())
        }
    };
    tokio::select! {
        () = running.stop() => {}
        signal = signals.next() => {
            // The guards end the processes that are left.
            info!(signal, "second signal: exiting at once");
            telemetry::flush();
            exit(1);
        }
    }
    outcome
}

async fn run(settings: &Settings, running: &mut Running) -> anyhow::Result<()> {
    // Held to the end: the port must stay reserved while a replica is restarted.
    let (_reservation, listen) = reserve(settings.listen)
        .with_context(|| format!("LISTEN {} can't be used", settings.listen))?;
    let urls = database::prepare(settings, &mut running.postgres).await?;
    let owner = Database::parse(&urls.owner, "max-two")?;
    worker::seed(&owner, settings.users)
        .await
        .context("seeding")?;
    running.workers = Some(Fleet::start(workers(settings, &urls))?);
    wait_for_first_round(&owner, &settings.schedule).await?;
    running.replicas = Some(Fleet::start(replicas(settings, listen, &urls))?);
    wait_until_ready(listen).await;
    cli::print(&format_args!("Max Two is ready: http://{listen}/"));
    // A URL may hold a password.
    match urls.file {
        Some(file) => cli::print(&format_args!(
            "Its database: psql \"$(cat {})\"",
            shell_word(&file)
        )),
        None => cli::print(&"Its database: that of DATABASE_URL"),
    }
    running.postgres.supervise().await
}

impl Running {
    /// Stops replicas, then workers, then Postgres.
    async fn stop(&mut self) {
        for fleet in [self.replicas.take(), self.workers.take()]
            .into_iter()
            .flatten()
        {
            fleet.stop().await;
        }
        self.postgres.stop().await;
    }
}

/// Passes the log format on to the processes, if it is set.
fn log_format(settings: &Settings) -> Option<(&'static str, OsString)> {
    let format = settings.log_format?.to_possible_value()?;
    Some(("LOG_FORMAT", format.get_name().into()))
}

fn workers(settings: &Settings, urls: &Urls) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.worker.clone().into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        ("SCHEDULE", settings.schedule.to_string().into()),
    ];
    environment.extend(log_format(settings));
    (1..=settings.workers).map(move |number| Program {
        name: format!("worker {number}"),
        role: "worker",
        environment: environment.clone(),
    })
}

fn replicas(settings: &Settings, listen: SocketAddr, urls: &Urls) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.api.clone().into()),
        ("LISTEN", listen.to_string().into()),
        ("REUSE_PORT", "true".into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        // There is no load balancer that must notice the stop.
        ("DRAIN_DELAY", "0s".into()),
    ];
    environment.extend(log_format(settings));
    (1..=settings.replicas).map(move |number| Program {
        name: format!("api replica {number}"),
        role: "api",
        environment: environment.clone(),
    })
}

/// Waits until a worker has done the latest due tick. Returns at once if the schedule has had none.
async fn wait_for_first_round(owner: &Database, schedule: &Schedule) -> anyhow::Result<()> {
    let mut connection = owner
        .connect(CONNECT_TIMEOUT)
        .await
        .context("connecting to the database")?;
    let now = rounds::read_fence(&mut connection).await?.now;
    if let Some(due) = schedule.latest_tick(now) {
        info!(tick_at = %due, "waiting for the first round");
        while rounds::read_fence(&mut connection)
            .await?
            .last
            .is_none_or(|last| last.tick_at < due)
        {
            sleep(POLL_INTERVAL).await;
        }
    }
    close(connection).await;
    Ok(())
}

/// Waits until a replica is ready. It sends no query, because the very first query gets a special
/// answer, which belongs to the user.
async fn wait_until_ready(listen: SocketAddr) {
    while healthcheck::check(listen, "/readyz").await.is_err() {
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
