//! The worker's metrics: outcomes of attempts, and rounds. All times are the database's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    attempts: Family<OutcomeLabel, Counter>,
    duration: Histogram,
    last_round: Gauge<f64, AtomicU64>,
    database_up: Gauge,
    had_outcome: AtomicBool,
}

/// The label `outcome`.
type OutcomeLabel = [(&'static str, &'static str); 1];

/// The label of an attempt that failed. All others are those of [`outcome_label`].
const FAILED: &str = "failed";
const LABELS: [&str; 5] = ["done", "not_due", "busy", "cooling_down", FAILED];

fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::NotDue(_) => "not_due",
        Outcome::Busy => "busy",
        Outcome::CoolingDown => "cooling_down",
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("max_two_worker");
        let attempts = Family::<OutcomeLabel, Counter>::default();
        // All exist from the start, because a rate misses the first increment of a new series.
        for outcome in LABELS {
            drop(attempts.get_or_create(&[("outcome", outcome)]));
        }
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
            attempts,
            duration,
            last_round,
            database_up,
            had_outcome: AtomicBool::new(false),
        }
    }

    /// Records an attempt that the database decided.
    pub(crate) fn record_outcome(&self, outcome: &Outcome) {
        self.had_outcome.store(true, Ordering::Relaxed);
        self.database_up.set(1);
        self.count(outcome_label(outcome));
        match outcome {
            Outcome::Done(round) => {
                let duration = (round.finished_at - round.started_at).as_seconds_f64();
                self.duration.observe(duration);
                self.record_last_round(round.finished_at);
            }
            Outcome::NotDue(Some(fence)) => self.record_last_round(fence.finished_at),
            _ => {}
        }
    }

    /// Records an attempt that failed.
    pub(crate) fn record_failure(&self) {
        self.database_up.set(0);
        self.count(FAILED);
    }

    /// What `/readyz` shows: an attempt has had an outcome, so the database has answered once. This
    /// stays true during an outage. Only a completed round shows that the worker's privileges
    /// suffice.
    pub(crate) fn had_outcome(&self) -> bool {
        self.had_outcome.load(Ordering::Relaxed)
    }

    /// All metrics, with their content type: see [`metrics::encode`].
    pub(crate) fn encode(&self, accept: Option<&str>) -> (&'static str, String) {
        metrics::encode(&self.registry, accept)
    }

    fn count(&self, outcome: &'static str) {
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
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
