//! The command `run`: a loop that checks for a due round at each tick, and every two seconds in
//! case a tick was missed. A failed round is retried with backoff. Only a signal ends the loop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use shared::db::{Database, backoff};
use shared::program::shutdown::StopSignals;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admin;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::runner::{Next, RoundRunner};
use crate::settings::Settings;

/// How long after a check the worker checks again, without a tick.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest delay, before jitter, until a failed round is retried. Not shorter: each retry may
/// cost a whole round's work.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Does a round for each tick until a signal. Several missed ticks are one round.
///
/// # Errors
/// When the admin listener or the scheduler can't be started. No later error ends it.
pub(crate) async fn run(settings: Settings, database: Database) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::new(settings.schedule.clone()));
    let listener = TcpListener::bind(settings.admin_listen)
        .await
        .with_context(|| format!("ADMIN_LISTEN {}", settings.admin_listen))?;
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
    let scheduler_health = Arc::clone(&health);
    let scheduler = settings
        .schedule
        .start_scheduler(sender, move || {
            scheduler_health.record_scheduler_heartbeat();
        })
        .await
        .context("starting the scheduler")?;
    let mut runner = RoundRunner::new(settings, &database, health, metrics);
    let stop = CancellationToken::new();
    let stop_on_signal = async {
        let signal = signals.next().await;
        stop.cancel();
        signal
    };
    let attempts = attempt_until(&stop, &mut runner, &mut wakeups);
    let (signal, ()) = tokio::join!(stop_on_signal, attempts);
    scheduler.stop().await;
    admin.abort();
    runner.close().await;
    info!(event = "worker_stopped", signal, "worker stopped");
    Ok(())
}

/// Attempts the due round at each wake-up, and at an interval without one, until the stop.
async fn attempt_until(
    stop: &CancellationToken,
    runner: &mut RoundRunner,
    wakeups: &mut mpsc::Receiver<()>,
) {
    let mut delay = Duration::ZERO;
    let mut retry_delays = backoff(MAX_RETRY_DELAY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(delay) => {}
            Some(()) = wakeups.recv() => {}
        }
        delay = match runner.attempt(stop).await {
            Next::Wait => {
                retry_delays = backoff(MAX_RETRY_DELAY);
                CHECK_INTERVAL
            }
            Next::Retry => retry_delays.next().unwrap_or(MAX_RETRY_DELAY),
            Next::Stop => return,
        };
    }
}
