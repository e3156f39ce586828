//! A replica of the api: HTTP comes in, one message to the database goes out.
//!
//! A request passes through `edge` (connections and their limits), `routes` (handlers), `queue` and
//! `coalescer`, which answers all equal queries of a batch with one message over the session that
//! its `connector` has opened. Replicas are stateless: none holds what another one, or a restart,
//! would need.

mod coalescer;
mod connector;
mod edge;
mod health;
mod metrics;
mod problem;
mod query;
mod queue;
mod response;
mod routes;
mod settings;

pub use settings::Settings;

use std::future::pending;
use std::io;
use std::process::ExitCode;

use anyhow::{Context, bail};
use shared::db::Database;
use shared::program::shutdown::StopSignals;
use shared::program::{self, Program, healthcheck};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use edge::{Listeners, Server};
use health::Health;
use metrics::Metrics;
use routes::AppState;
use settings::Command;

/// Maximum number of connections of the admin listener, for health checks and Prometheus.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// Runs the program, and returns the status to exit with.
#[must_use]
pub fn main(settings: Settings) -> ExitCode {
    if let Some(Command::Healthcheck) = settings.command {
        return healthcheck::run(settings.admin_listen);
    }
    let program = Program {
        name: "max-two-api",
        runtime: runtime::Builder::new_multi_thread(),
        log_format: settings.log_format,
        log_filters: "info",
        database: settings.database.clone(),
    };
    program::run(program, async |database| {
        run(settings, database)
            .await
            .inspect_err(|error| error!(event = "replica_failed", "replica failed: {error:#}"))
    })
}

async fn run(settings: Settings, database: Database) -> anyhow::Result<()> {
    let signals = StopSignals::listen().context("registering signal handlers")?;
    let max_connections = edge::open_files::raise_limit(settings.max_connections as usize);
    let max_waiting = settings.max_waiting as usize;
    let listeners = Listeners::open(&settings)?;
    info!(
        event = "replica_starting",
        listen = %addresses(&listeners.public)?,
        admin = %addresses(&listeners.admin)?,
        "replica starting"
    );
    // Leaked, because they live as long as the process. Routes are cloned for each request, and
    // with an `Arc` all threads would count references in one cache line.
    let health: &'static Health = Box::leak(Box::default());
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new(max_waiting, max_connections)));
    let (queue, coalescer_task) = coalescer::start(
        &database,
        max_waiting,
        settings.request_timeout,
        health,
        metrics,
    );
    let state: &'static AppState = Box::leak(Box::new(AppState {
        queue,
        health,
        metrics,
        connections: TaskTracker::new(),
    }));
    let admin_server = Server {
        max_connections: MAX_ADMIN_CONNECTIONS,
        header_timeout: settings.header_timeout,
        idle_timeout: settings.idle_timeout,
        connections: TaskTracker::new(),
        metrics: None,
        routes: warp::service(routes::admin(state)),
    };
    let public_server = Server {
        max_connections,
        header_timeout: settings.header_timeout,
        idle_timeout: settings.idle_timeout,
        connections: state.connections.clone(),
        metrics: Some(metrics),
        routes: warp::service(routes::public(state)),
    };
    // Health checks and metrics are answered until the process ends.
    let serve_admin = tokio::spawn(admin_server.serve(listeners.admin, pending()));
    let close = CancellationToken::new();
    let serve_public = public_server.serve(listeners.public, close.clone().cancelled_owned());
    let stop = shut_down(signals, health, close, &settings);
    tokio::select! {
        // After a stop signal, the last connection has ended.
        () = serve_public => {}
        // The close timeout is over, or a second signal came.
        () = stop => {}
        outcome = serve_admin => bail!("the admin listener has ended: {outcome:?}"),
        outcome = coalescer_task => bail!("the coalescer has ended: {outcome:?}"),
    }
    info!(event = "replica_stopped", "replica stopped");
    Ok(())
}

/// The addresses of these listeners, for the log.
fn addresses(listeners: &[TcpListener]) -> io::Result<String> {
    let addresses: io::Result<Vec<_>> = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.to_string()))
        .collect();
    Ok(addresses?.join(", "))
}

/// Waits for a stop signal and the drain delay, then closes connections. Returns when the remaining
/// ones must be cut off: after the close timeout, or at a second signal.
async fn shut_down(
    mut signals: StopSignals,
    health: &Health,
    close: CancellationToken,
    settings: &Settings,
) {
    let signal = signals.next().await;
    info!(event = "replica_draining", signal, "replica draining");
    health.set_draining();
    let drain = async {
        sleep(settings.drain_delay).await;
        close.cancel();
        sleep(settings.close_timeout).await;
    };
    tokio::select! {
        () = drain => {}
        signal = signals.next() => {
            info!(event = "stop_forced", signal, "second signal: stopping at once");
        }
    }
}
