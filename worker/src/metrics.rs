//! Counts outcomes of rounds, and encodes the worker's metrics as OpenMetrics. All times are the
//! database's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shared::clock::TimeAhead;
use shared::program::{BUILD_LABELS, logs};
use shared::rounds::{Outcome, Round};

use crate::schedule::Schedule;

/// Upper bounds of the histogram buckets for the duration of a round, in seconds.
const DURATION_BUCKETS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The worker's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: Family<AttemptLabels, Counter>,
    duration: Histogram,
    last_round: Gauge<f64, AtomicU64>,
    lag: Gauge<f64, AtomicU64>,
    time_ahead: Family<TableLabels, Gauge<f64, AtomicU64>>,
    database_up: Gauge,
    log_lines_dropped: Counter,
    schedule: Schedule,
    progress: Mutex<Progress>,
}

/// What is known of the database, for the lag.
#[derive(Default)]
struct Progress {
    database_time: Option<DatabaseTime>,
    last_tick_at: Option<DateTime<Utc>>,
}

/// A time read from the database, which advances with this machine's monotonic clock until the next
/// one is read. So the lag ignores this machine's wall clock, and grows during an outage.
#[derive(Clone, Copy)]
struct DatabaseTime {
    time: DateTime<Utc>,
    read_at: Instant,
}

impl DatabaseTime {
    fn now(self) -> DateTime<Utc> {
        self.time + self.read_at.elapsed()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    outcome: &'static str,
}

/// The labels of all attempts.
const OUTCOMES: [&str; 6] = [
    "done",
    "not_due",
    "busy",
    "cooling_down",
    "old_snapshot",
    "failed",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    table: &'static str,
}

impl Metrics {
    pub(crate) fn new(schedule: Schedule) -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("max_two_worker"),
            attempts: Family::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            last_round: Gauge::default(),
            lag: Gauge::default(),
            time_ahead: Family::default(),
            database_up: Gauge::default(),
            log_lines_dropped: Counter::default(),
            schedule,
            progress: Mutex::default(),
        };
        // Every label value exists from the start, so that a rate over the first one is right.
        for outcome in OUTCOMES {
            drop(metrics.attempts.get_or_create(&AttemptLabels { outcome }));
        }
        metrics.register()
    }

    fn register(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register(
            "round_attempts",
            "Attempts at a round, by outcome",
            self.attempts.clone(),
        );
        registry.register_with_unit(
            "round_duration",
            "From the start of a round's transaction to just before its commit",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "last_round_timestamp",
            "When the newest round known to this worker was finished, as Unix time",
            Unit::Seconds,
            self.last_round.clone(),
        );
        registry.register_with_unit(
            "lag",
            "Time between the newest tick with a round and the latest tick",
            Unit::Seconds,
            self.lag.clone(),
        );
        registry.register_with_unit(
            "time_ahead",
            "How far the newest time in this table is ahead of the database's clock",
            Unit::Seconds,
            self.time_ahead.clone(),
        );
        registry.register(
            "database_up",
            "1 if the last attempt got an outcome from the database, 0 if it failed",
            self.database_up.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines that could not be written, or waited too long for a reader",
            self.log_lines_dropped.clone(),
        );
        registry.register("build", "The running program", Info::new(BUILD_LABELS));
        self
    }

    /// Records an attempt that the database decided.
    pub(crate) fn record_outcome(&self, outcome: &Outcome) {
        self.database_up.set(1);
        match outcome {
            Outcome::Done(round) => {
                self.count("done");
                let duration = (round.finished_at - round.started_at).as_seconds_f64();
                self.duration.observe(duration);
                self.record_progress(round.finished_at, Some(round));
            }
            Outcome::NotDue(reading) => {
                self.count("not_due");
                self.record_progress(reading.transaction_started_at, reading.fence.as_ref());
            }
            Outcome::Busy => self.count("busy"),
            Outcome::CoolingDown => self.count("cooling_down"),
            Outcome::OldSnapshot => self.count("old_snapshot"),
        }
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

    /// Records an attempt that failed.
    pub(crate) fn record_failure(&self) {
        self.database_up.set(0);
        self.count("failed");
    }

    /// All metrics in the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        if let Some(lag) = self.lag_seconds() {
            self.lag.set(lag);
        }
        self.log_lines_dropped
            .inner()
            .store(logs::dropped_lines(), Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    /// `None` until a database time and a round are known, or if the schedule has had no tick.
    fn lag_seconds(&self) -> Option<f64> {
        let (now, last_tick_at) = {
            let progress = self.progress();
            (progress.database_time?.now(), progress.last_tick_at?)
        };
        let latest_tick = self.schedule.latest_tick(now)?;
        Some((latest_tick - last_tick_at).as_seconds_f64().max(0.0))
    }

    fn record_progress(&self, database_time: DateTime<Utc>, fence: Option<&Round>) {
        let mut progress = self.progress();
        progress.database_time = Some(DatabaseTime {
            time: database_time,
            read_at: Instant::now(),
        });
        let Some(fence) = fence else { return };
        progress.last_tick_at = Some(fence.tick_at);
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact to the microsecond until the year 2255"
        )]
        self.last_round
            .set(fence.finished_at.timestamp_micros() as f64 / 1e6);
    }

    fn count(&self, outcome: &'static str) {
        self.attempts
            .get_or_create(&AttemptLabels { outcome })
            .inc();
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::rounds::FenceReading;

    use super::*;

    fn metrics() -> Metrics {
        let every_minute = "0 * * * * *".parse().expect("it is a cron pattern");
        Metrics::new(every_minute)
    }

    /// In the past, so that it differs from this machine's clock.
    fn at(time: &str) -> DateTime<Utc> {
        let text = format!("2020-07-30T{time}Z");
        text.parse().expect("it is a time in RFC 3339")
    }

    fn round(tick_at: DateTime<Utc>) -> Round {
        Round {
            tick_at,
            started_at: tick_at,
            finished_at: tick_at,
            users_updated: 1,
        }
    }

    #[test]
    fn the_lag_is_counted_by_the_databases_clock() {
        let metrics = metrics();
        assert_eq!(metrics.lag_seconds(), None);
        metrics.record_outcome(&Outcome::Done(round(at("17:00:00"))));
        assert_eq!(metrics.lag_seconds(), Some(0.0));
        metrics.record_outcome(&Outcome::NotDue(FenceReading {
            transaction_started_at: at("17:05:30"),
            fence: Some(round(at("17:00:00"))),
        }));
        assert_eq!(metrics.lag_seconds(), Some(300.0));
        assert!(
            metrics
                .encode()
                .contains("max_two_worker_lag_seconds 300.0")
        );
    }

    #[test]
    fn the_lag_grows_while_the_database_is_away() {
        let metrics = metrics();
        metrics.record_outcome(&Outcome::Done(round(at("17:00:00"))));
        metrics.record_failure();
        let two_minutes_ago = Instant::now()
            .checked_sub(Duration::from_mins(2))
            .expect("the machine has been up for longer");
        let mut progress = metrics.progress();
        let database_time = progress.database_time.as_mut();
        database_time.expect("a round is known").read_at = two_minutes_ago;
        drop(progress);
        assert_eq!(metrics.lag_seconds(), Some(120.0));
    }

    #[test]
    fn every_outcome_has_a_label_of_its_own() {
        let outcomes = [
            ("done", Some(Outcome::Done(round(at("17:00:00"))))),
            (
                "not_due",
                Some(Outcome::NotDue(FenceReading {
                    transaction_started_at: at("17:00:00"),
                    fence: None,
                })),
            ),
            ("busy", Some(Outcome::Busy)),
            ("cooling_down", Some(Outcome::CoolingDown)),
            ("old_snapshot", Some(Outcome::OldSnapshot)),
            ("failed", None),
        ];
        for (label, outcome) in &outcomes {
            let metrics = metrics();
            match outcome {
                Some(outcome) => metrics.record_outcome(outcome),
                None => metrics.record_failure(),
            }
            let text = metrics.encode();
            for (other, _) in &outcomes {
                let count = i32::from(other == label);
                let line =
                    format!("max_two_worker_round_attempts_total{{outcome=\"{other}\"}} {count}");
                assert!(text.contains(&line), "{line} is missing from\n{text}");
            }
        }
    }
}
