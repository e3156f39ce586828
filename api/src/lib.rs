//! A replica of the api: HTTP comes in, one statement goes out.
//!
//! It keeps nothing that another replica, or itself after a restart, would need. A request walks through `edge`
//! (connections and their limits), `routes`, `coalesce` (which answers all that wait with one statement) and
//! `shared::last_query`.

mod coalesce;
mod edge;
mod health;
mod metrics;
mod openapi;
mod problem;
mod routes;
mod settings;

pub use settings::Settings;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use shared::db::{Database, warn_about_tls};
use shared::shutdown::StopSignals;
use shared::{cli, healthcheck, telemetry};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use edge::{Connections, Limits, Listeners, Phase};
use health::Health;
use metrics::Metrics;
use routes::Replica;
use settings::Command;

/// Connections of the admin listener: probes and a scraper or two.
const ADMIN_CONNECTIONS: usize = 64;

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(settings: Settings) -> ExitCode {
    if let Some(Command::Healthcheck) = settings.command {
        return healthcheck::run(settings.admin_listen);
    }
    if let Err(error) = telemetry::start(settings.log_format, "info") {
        return cli::bad_setting(&error);
    }
    let database = match settings.database.database("max-two-api") {
        Ok(database) => database,
        Err(error) => return cli::bad_setting(&error),
    };
    warn_about_tls(&database);
    let runtime = match runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(settings, database));
    // Not waiting for a name that is still being looked up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("the replica ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings, database: Database) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("listening for signals")?;
    let connections = edge::affordable_connections(settings.max_connections as usize);
    let listeners = Listeners::open(settings.listen, settings.admin_listen, settings.reuse_port)?;
    info!(
        listen = %listeners.public.local_addr()?,
        admin = %listeners.admin.local_addr()?,
        "the replica starts"
    );
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::new());
    let (line, coalescer) = coalesce::open(
        &database,
        settings.max_waiting as usize,
        settings.request_timeout.into(),
        Arc::clone(&health),
        Arc::clone(&metrics),
    );
    // It lives as long as the process, so it may be leaked: the routes are cloned for each request, and all threads would
    // count its references up and down in one cache line.
    let replica: &'static Replica = Box::leak(Box::new(Replica {
        line,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        connections: Connections::default(),
        description: openapi::description(),
    }));
    let limits = Limits {
        connections,
        header: settings.header_timeout.into(),
        idle: settings.idle_timeout.into(),
        write: settings.write_timeout.into(),
    };
    // Probes and metrics are answered until the very end: this sender never changes its mind.
    let (_always, serving) = watch::channel(Phase::Serving);
    let admin = edge::serve(
        listeners.admin,
        routes::admin(replica),
        Limits {
            connections: ADMIN_CONNECTIONS,
            ..limits
        },
        Connections::default(),
        Arc::new(Metrics::new()),
        serving,
    );
    let (phase, phases) = watch::channel(Phase::Serving);
    let public = edge::serve(
        listeners.public,
        routes::public(replica),
        limits,
        replica.connections.clone(),
        metrics,
        phases,
    );
    let stop = async {
        let signal = signals.next().await;
        info!(signal, "the replica drains");
        health.drain();
        tokio::select! {
            () = async {
                sleep(settings.drain_delay.into()).await;
                phase.send_replace(Phase::Closing);
                sleep(settings.close_timeout.into()).await;
            } => {}
            signal = signals.next() => info!(signal, "a second signal ends it at once"),
        }
        phase.send_replace(Phase::Over);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = public => {}
        () = admin => {}
        () = stop => {}
        outcome = coalescer => bail!("nobody answers any more: {outcome:?}"),
    }
    info!("the replica stops");
    Ok(())
}
