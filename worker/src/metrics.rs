//! The worker's metrics: outcomes of attempts, and rounds. All times are the database's.

use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use shared::domain::rounds::Outcome;
use shared::program::metrics;

/// Upper bounds of the histogram buckets for the duration of a round, in seconds.
const DURATION_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The worker's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    // Attempts at a round, one counter for each outcome.
    done: Counter,
    not_due: Counter,
    busy: Counter,
    cooling_down: Counter,
    failed: Counter,
    duration: Histogram,
    last_round: Gauge<f64, AtomicU64>,
    database_up: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("max_two_worker");
        let attempts = Family::<[(&str, &str); 1], Counter>::default();
        // All exist from the start, because a rate misses the first increment of a new series.
        let counter = |outcome| attempts.get_or_create_owned(&[("outcome", outcome)]);
        registry.register(
            "round_attempts",
            "Attempts at a round, by outcome",
            attempts.clone(),
        );
        let duration = Histogram::new(DURATION_BUCKETS);
        registry.register_with_unit(
            "round_duration",
            "From the start of a round's transaction to just before its commit",
            Unit::Seconds,
            duration.clone(),
        );
        let last_round = Gauge::default();
        registry.register_with_unit(
            "last_round_timestamp",
            "When the newest round known to this worker was finished, as Unix time",
            Unit::Seconds,
            last_round.clone(),
        );
        let database_up = Gauge::default();
        registry.register(
            "database_up",
            "1 if the last attempt got an outcome from the database, 0 if it failed",
            database_up.clone(),
        );
        metrics::register_common(&mut registry);
        Self {
            registry,
            done: counter("done"),
            not_due: counter("not_due"),
            busy: counter("busy"),
            cooling_down: counter("cooling_down"),
            failed: counter("failed"),
            duration,
            last_round,
            database_up,
        }
    }

    /// Records an attempt that the database decided.
    pub(crate) fn record_outcome(&self, outcome: &Outcome) {
        self.database_up.set(1);
        match outcome {
            Outcome::Done(round) => {
                self.done.inc();
                let duration = (round.finished_at - round.started_at).as_seconds_f64();
                self.duration.observe(duration);
                self.record_last_round(round.finished_at);
            }
            Outcome::NotDue(fence) => {
                self.not_due.inc();
                if let Some(fence) = fence {
                    self.record_last_round(fence.finished_at);
                }
            }
            Outcome::Busy => drop(self.busy.inc()),
            Outcome::CoolingDown => drop(self.cooling_down.inc()),
        }
    }

    /// Records an attempt that failed.
    pub(crate) fn record_failure(&self) {
        self.database_up.set(0);
        self.failed.inc();
    }

    /// All metrics, with their content type: see [`metrics::encode`].
    pub(crate) fn encode(&self, accept: Option<&str>) -> (&'static str, String) {
        metrics::encode(&self.registry, accept)
    }

    fn record_last_round(&self, finished_at: DateTime<Utc>) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact to the microsecond until the year 2255"
        )]
        self.last_round
            .set(finished_at.timestamp_micros() as f64 / 1e6);
    }
}
