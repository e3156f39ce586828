//! Counts outcomes of attempts, and encodes the worker's metrics as OpenMetrics. All times are the
//! database's.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shared::domain::clock::TimeAhead;
use shared::domain::rounds::{Outcome, Round};
use shared::program::{BUILD_LABELS, logs};

use crate::lag::Lag;
use crate::schedule::Schedule;

/// Upper bounds of the histogram buckets for the duration of a round, in seconds.
const DURATION_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The worker's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: Attempts,
    duration: Histogram,
    last_round: Gauge<f64, AtomicU64>,
    lag: Lag,
    lag_gauge: Gauge<f64, AtomicU64>,
    time_ahead: Family<TableLabels, Gauge<f64, AtomicU64>>,
    database_up: Gauge,
    log_lines_dropped: Counter,
}

/// A counter for each outcome, and one for attempts that failed. All exist from the start, because
/// a rate misses the first increment of a new series.
struct Attempts {
    done: Counter,
    not_due: Counter,
    busy: Counter,
    cooling_down: Counter,
    old_snapshot: Counter,
    failed: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

impl Attempts {
    fn register(registry: &mut Registry) -> Self {
        let attempts = Family::<OutcomeLabels, Counter>::default();
        registry.register(
            "round_attempts",
            "Attempts at a round, by outcome",
            attempts.clone(),
        );
        let counter = |outcome| attempts.get_or_create_owned(&OutcomeLabels { outcome });
        Self {
            done: counter("done"),
            not_due: counter("not_due"),
            busy: counter("busy"),
            cooling_down: counter("cooling_down"),
            old_snapshot: counter("old_snapshot"),
            failed: counter("failed"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    table: &'static str,
}

impl Metrics {
    pub(crate) fn new(schedule: Schedule) -> Self {
        let mut registry = Registry::with_prefix("max_two_worker");
        let attempts = Attempts::register(&mut registry);
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
        let lag_gauge = Gauge::default();
        registry.register_with_unit(
            "lag",
            "Time between the newest tick with a round and the latest tick",
            Unit::Seconds,
            lag_gauge.clone(),
        );
        let time_ahead = Family::default();
        registry.register_with_unit(
            "time_ahead",
            "How far the newest time in this table is ahead of the database's clock",
            Unit::Seconds,
            time_ahead.clone(),
        );
        let database_up = Gauge::default();
        registry.register(
            "database_up",
            "1 if the last attempt got an outcome from the database, 0 if it failed",
            database_up.clone(),
        );
        let log_lines_dropped = Counter::default();
        registry.register(
            "log_lines_dropped",
            "Log lines that could not be written, or waited too long for a reader",
            log_lines_dropped.clone(),
        );
        registry.register("build", "The running program", Info::new(BUILD_LABELS));
        Self {
            registry,
            attempts,
            duration,
            last_round,
            lag: Lag::new(schedule),
            lag_gauge,
            time_ahead,
            database_up,
            log_lines_dropped,
        }
    }

    /// Records an attempt that the database decided.
    pub(crate) fn record_outcome(&self, outcome: &Outcome) {
        self.database_up.set(1);
        let attempts = match outcome {
            Outcome::Done(round) => {
                let duration = (round.finished_at - round.started_at).as_seconds_f64();
                self.duration.observe(duration);
                self.record_progress(round.finished_at, Some(round));
                &self.attempts.done
            }
            Outcome::NotDue(reading) => {
                self.record_progress(reading.transaction_started_at, reading.fence.as_ref());
                &self.attempts.not_due
            }
            Outcome::Busy => &self.attempts.busy,
            Outcome::CoolingDown => &self.attempts.cooling_down,
            Outcome::OldSnapshot => &self.attempts.old_snapshot,
        };
        attempts.inc();
    }

    /// Records an attempt that failed.
    pub(crate) fn record_failure(&self) {
        self.database_up.set(0);
        self.attempts.failed.inc();
    }

    /// Records how far times lie ahead of the database's clock.
    pub(crate) fn record_time_ahead(&self, ahead: &TimeAhead) {
        for (table, seconds) in [
            ("rounds", ahead.rounds_seconds),
            ("last_query", ahead.last_query_seconds),
        ] {
            self.time_ahead
                .get_or_create(&TableLabels { table })
                .set(seconds);
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        if let Some(lag) = self.lag.seconds() {
            self.lag_gauge.set(lag);
        }
        self.log_lines_dropped
            .inner()
            .store(logs::dropped_lines(), Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    fn record_progress(&self, database_time: DateTime<Utc>, fence: Option<&Round>) {
        self.lag
            .record(database_time, fence.map(|fence| fence.tick_at));
        let Some(fence) = fence else { return };
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact to the microsecond until the year 2255"
        )]
        self.last_round
            .set(fence.finished_at.timestamp_micros() as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    use shared::domain::rounds::FenceReading;

    use super::*;

    fn attempts(text: &str) -> Vec<&str> {
        text.lines()
            .filter(|line| line.starts_with("max_two_worker_round_attempts_total{"))
            .collect()
    }

    #[test]
    fn the_lag_is_that_of_the_last_outcome_and_a_failure_leaves_it() {
        let at = |time: &str| {
            let text = format!("2020-07-30T{time}Z");
            text.parse().expect("it is a time in RFC 3339")
        };
        let round = Round {
            tick_at: at("17:00:00"),
            started_at: at("17:00:00"),
            finished_at: at("17:00:00"),
            users_updated: 1,
        };
        let metrics = Metrics::new("0 * * * * *".parse().expect("it is a cron pattern"));
        metrics.record_outcome(&Outcome::Done(round));
        metrics.record_outcome(&Outcome::NotDue(FenceReading {
            transaction_started_at: at("17:05:30"),
            fence: Some(round),
        }));
        metrics.record_failure();
        let text = metrics.encode();
        assert!(text.contains("max_two_worker_lag_seconds 300.0"), "{text}");
    }

    #[test]
    fn every_outcome_has_a_label_of_its_own() {
        let now = Utc::now();
        let round = Round {
            tick_at: now,
            started_at: now,
            finished_at: now,
            users_updated: 1,
        };
        let not_due = FenceReading {
            transaction_started_at: now,
            fence: None,
        };
        let outcomes = [
            ("done", Some(Outcome::Done(round))),
            ("not_due", Some(Outcome::NotDue(not_due))),
            ("busy", Some(Outcome::Busy)),
            ("cooling_down", Some(Outcome::CoolingDown)),
            ("old_snapshot", Some(Outcome::OldSnapshot)),
            ("failed", None),
        ];
        for (label, outcome) in &outcomes {
            let metrics = Metrics::new("0 * * * * *".parse().expect("it is a cron pattern"));
            match outcome {
                Some(outcome) => metrics.record_outcome(outcome),
                None => metrics.record_failure(),
            }
            let text = metrics.encode();
            let attempts = attempts(&text);
            let once = format!("max_two_worker_round_attempts_total{{outcome=\"{label}\"}} 1");
            assert!(attempts.contains(&&*once), "{once} is missing from\n{text}");
            let zeros = attempts.iter().filter(|line| line.ends_with(" 0"));
            assert_eq!(zeros.count(), outcomes.len() - 1, "{text}");
            assert_eq!(attempts.len(), outcomes.len(), "an outcome is not tested");
        }
    }
}
