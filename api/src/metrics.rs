//! What a replica tells of itself, for Prometheus. All of it is counted away from the connections' tasks: a
//! batch at a time, or when something is refused.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use warp::http::StatusCode;

/// A replica's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    responses: Family<Status, Counter>,
    /// That of the family for status 200, found once.
    answers: Counter,
    latency: Histogram,
    batch: Histogram,
    waiting: Gauge,
    connections: Gauge,
    database_up: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: u16,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("max_two_api");
        let responses = Family::<Status, Counter>::default();
        let latency = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        let batch = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let [waiting, connections, database_up] = [(); 3].map(|()| Gauge::default());
        registry.register(
            "responses",
            "Responses on the public listener, by status",
            responses.clone(),
        );
        registry.register_with_unit(
            "query_duration",
            "From a query's arrival in line to its answer from the database",
            Unit::Seconds,
            latency.clone(),
        );
        registry.register(
            "batch_queries",
            "How many queries a statement answered",
            batch.clone(),
        );
        registry.register(
            "waiting_queries",
            "Queries in line for the next statement",
            waiting.clone(),
        );
        registry.register(
            "connections",
            "Open connections on the public listener",
            connections.clone(),
        );
        registry.register(
            "database_up",
            "Whether the database answers",
            database_up.clone(),
        );
        registry.register(
            "build",
            "The program that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        // From the beginning, for a rate is blind to what a new series begins with.
        let [answers, _] = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].map(|status| {
            responses.get_or_create_owned(&Status {
                status: status.as_u16(),
            })
        });
        Self {
            registry,
            responses,
            answers,
            latency,
            batch,
            waiting,
            connections,
            database_up,
        }
    }

    /// A statement answered the queries that came at these times.
    pub(crate) fn answered(&self, asked_at: impl ExactSizeIterator<Item = Instant>) {
        let now = Instant::now();
        let number = asked_at.len();
        self.answers.inc_by(number as u64);
        self.batch
            .observe(f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
        for asked_at in asked_at {
            self.latency.observe((now - asked_at).as_secs_f64());
        }
    }

    /// A response that was no answer to a query.
    pub(crate) fn responded(&self, status: StatusCode) {
        self.responses
            .get_or_create(&Status {
                status: status.as_u16(),
            })
            .inc();
    }

    pub(crate) fn database_is_up(&self, up: bool) {
        self.database_up.set(up.into());
    }

    /// All of it, in the text format of `OpenMetrics`, with two figures that are only looked at when somebody asks.
    pub(crate) fn text(&self, waiting: usize, connections: usize) -> String {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.connections
            .set(i64::try_from(connections).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written to it");
        text
    }
}
