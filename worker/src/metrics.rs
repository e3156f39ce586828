//! What the worker tells of itself, for Prometheus and for its probes.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shared::rounds::{Outcome, Round};

use crate::schedule::Schedule;

/// A loop that has not turned for so long is stuck, and a scheduler that was not heard for so long has stopped: by the
/// monotonic clock, which nobody sets.
const STUCK: Duration = Duration::from_secs(30);
/// Upper bounds of the buckets for the duration of a round.
const SECONDS: [f64; 10] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The worker's metrics and probes.
pub(crate) struct Metrics {
    registry: Registry,
    attempts: Family<Attempt, Counter>,
    duration: Histogram,
    last_round: Gauge<f64, AtomicU64>,
    lag: Gauge<f64, AtomicU64>,
    database_up: Gauge,
    schedule: Schedule,
    state: Mutex<State>,
}

struct State {
    turned_at: Instant,
    scheduler_ran_at: Instant,
    reached: bool,
    last_tick_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    outcome: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(
    non_camel_case_types,
    reason = "they are label values, and look like those"
)]
enum Kind {
    done,
    not_due,
    busy,
    cooling_down,
    failed,
}

impl Metrics {
    pub(crate) fn new(schedule: Schedule) -> Self {
        let mut registry = Registry::with_prefix("max_two_worker");
        let attempts = Family::<Attempt, Counter>::default();
        for outcome in [
            Kind::done,
            Kind::not_due,
            Kind::busy,
            Kind::cooling_down,
            Kind::failed,
        ] {
            drop(attempts.get_or_create(&Attempt { outcome }));
        }
        let duration = Histogram::new(SECONDS);
        let last_round = Gauge::default();
        let lag = Gauge::default();
        let database_up = Gauge::default();
        registry.register(
            "round_attempts",
            "Attempts at a round, by outcome: busy is a lock held by another worker, not_due a tick that was fenced off",
            attempts.clone(),
        );
        registry.register_with_unit(
            "round_duration",
            "From the begin of a round's transaction to its commit",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register_with_unit(
            "last_round_timestamp",
            "When the last round that is known here was finished, as Unix time",
            Unit::Seconds,
            last_round.clone(),
        );
        registry.register_with_unit(
            "lag",
            "How far the last tick that was done is behind the one that is due",
            Unit::Seconds,
            lag.clone(),
        );
        registry.register(
            "database_up",
            "Whether the last attempt reached the database",
            database_up.clone(),
        );
        registry.register(
            "build",
            "The program that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry,
            attempts,
            duration,
            last_round,
            lag,
            database_up,
            schedule,
            state: Mutex::new(State {
                turned_at: Instant::now(),
                scheduler_ran_at: Instant::now(),
                reached: false,
                last_tick_at: None,
            }),
        }
    }

    /// The loop goes on.
    pub(crate) fn turned(&self) {
        self.state().turned_at = Instant::now();
    }

    /// The scheduler goes on.
    pub(crate) fn scheduler_ran(&self) {
        self.state().scheduler_ran_at = Instant::now();
    }

    /// An attempt reached the database.
    pub(crate) fn succeeded(&self, outcome: &Outcome) {
        self.database_up.set(1);
        self.state().reached = true;
        match outcome {
            Outcome::Done(round) => {
                self.count(Kind::done);
                let duration = (round.finished_at - round.started_at).as_seconds_f64();
                self.duration.observe(duration);
                self.saw(round);
            }
            Outcome::NotDue(last) => {
                self.count(Kind::not_due);
                if let Some(round) = last {
                    self.saw(round);
                }
            }
            Outcome::Busy => self.count(Kind::busy),
            Outcome::CoolingDown => self.count(Kind::cooling_down),
        }
    }

    /// An attempt ended with an error.
    pub(crate) fn failed(&self) {
        self.database_up.set(0);
        self.count(Kind::failed);
    }

    /// Whether loop and scheduler were heard of lately.
    ///
    /// # Errors
    /// What has stopped.
    pub(crate) fn alive(&self) -> Result<(), &'static str> {
        let state = self.state();
        if state.turned_at.elapsed() > STUCK {
            Err("the loop is stuck")
        } else if state.scheduler_ran_at.elapsed() > STUCK {
            Err("the scheduler has stopped")
        } else {
            Ok(())
        }
    }

    /// Whether the database has been reached once.
    ///
    /// # Errors
    /// That it has not.
    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        if self.state().reached {
            Ok(())
        } else {
            Err("the database has not been reached yet")
        }
    }

    /// All of it, in the text format of `OpenMetrics`.
    pub(crate) fn text(&self) -> String {
        let last_tick_at = self.state().last_tick_at;
        if let (Some(due), Some(done)) = (self.schedule.latest_tick(Utc::now()), last_tick_at) {
            self.lag.set((due - done).as_seconds_f64().max(0.0));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written to it");
        text
    }

    fn saw(&self, round: &Round) {
        self.state().last_tick_at = Some(round.tick_at);
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact to the microsecond until the year 2255"
        )]
        self.last_round
            .set(round.finished_at.timestamp_micros() as f64 / 1e6);
    }

    fn count(&self, outcome: Kind) {
        self.attempts.get_or_create(&Attempt { outcome }).inc();
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
