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

use anyhow::Context;
use shared::db::Database;
use shared::shutdown::StopSignals;
use shared::{cli, telemetry};
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use edge::{Connections, Limits, Listeners, Phase};
use health::Health;
use metrics::Metrics;
use routes::Replica;

/// Connections of the admin listener: probes and a scraper or two.
const ADMIN_CONNECTIONS: usize = 64;

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(settings: Settings) -> ExitCode {
    telemetry::start(settings.log_format, "info");
    let database = match settings.database() {
        Ok(database) => database,
        Err(error) => return cli::bad_setting(&error),
    };
    let result = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(settings, database)));
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
    if let Err(error) = edge::raise_file_limit() {
        warn!("the limit on open files stays as it is: {error}");
    }
    let listeners = Listeners::open(settings.listen, settings.admin_listen, settings.reuse_port)?;
    info!(
        listen = %listeners.public.local_addr()?,
        admin = %listeners.admin.local_addr()?,
        "the replica starts"
    );
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::new());
    let replica = Arc::new(Replica {
        line: coalesce::open(
            &database,
            settings.max_waiting as usize,
            settings.request_timeout.into(),
            Arc::clone(&health),
            Arc::clone(&metrics),
        ),
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        connections: Connections::default(),
        description: openapi::description(),
    });
    let limits = Limits {
        connections: settings.max_connections as usize,
        header: settings.header_timeout.into(),
        idle: settings.idle_timeout.into(),
        write: settings.write_timeout.into(),
    };
    let (phase, phases) = watch::channel(Phase::Serving);
    let admin = edge::serve(
        listeners.admin,
        routes::admin(&replica),
        Limits {
            connections: ADMIN_CONNECTIONS,
            ..limits
        },
        Connections::default(),
        Arc::new(Metrics::new()),
        phases.clone(),
    );
    // Probes and metrics are answered until the very end.
    let admin = tokio::spawn(admin);
    let connections = replica.connections.clone();
    let public = edge::serve(
        listeners.public,
        routes::public(&replica),
        limits,
        connections,
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
    };
    tokio::pin!(public);
    tokio::select! {
        () = &mut public => {}
        () = stop => public.await,
    }
    admin.abort();
    info!("the replica stops");
    Ok(())
}
