//! The replica's metrics, for Prometheus. The edge counts responses. The coalescer observes
//! batches, and how long queries took.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use shared::program::metrics;
use warp::http::StatusCode;

/// A replica's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    responses: Family<StatusLabel, Counter>,
    /// The counter of that family for status 200, looked up once.
    ok_responses: Counter,
    query_duration: Histogram,
    batch_queries: Histogram,
    waiting_queries: Gauge,
    connections: Gauge,
    database_up: Gauge,
}

/// The label `status`.
type StatusLabel = [(&'static str, u16); 1];

fn status_label(status: StatusCode) -> StatusLabel {
    [("status", status.as_u16())]
}

impl Metrics {
    /// Metrics of a replica with these limits.
    pub(crate) fn new(max_waiting: usize, max_connections: usize) -> Self {
        let mut registry = Registry::with_prefix("max_two_api");
        let responses = Family::<StatusLabel, Counter>::default();
        registry.register(
            "responses",
            "Responses on the public listener, by status",
            responses.clone(),
        );
        let query_duration = Histogram::new(exponential_buckets(0.000_25, 2.0, 14));
        registry.register_with_unit(
            "query_duration",
            "From the queueing of a query to its answer from the database",
            Unit::Seconds,
            query_duration.clone(),
        );
        let batch_queries = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        registry.register(
            "batch_queries",
            "Number of queries in a batch, which are taken from the queue together",
            batch_queries.clone(),
        );
        let mut gauge = |name, help, value: usize| {
            let gauge = Gauge::<i64>::default();
            gauge.set(gauge_value(value));
            registry.register(name, help, gauge.clone());
            gauge
        };
        let help = "Queries in the queue, waiting for the next batch";
        let waiting_queries = gauge("waiting_queries", help, 0);
        let help = "MAX_WAITING: further queries get 503 at once";
        gauge("waiting_queries_limit", help, max_waiting);
        let help = "Open connections on the public listener";
        let connections = gauge("connections", help, 0);
        let help =
            "MAX_CONNECTIONS, or fewer if open files are limited: further connections have to wait";
        gauge("connections_limit", help, max_connections);
        let database_up = gauge(
            "database_up",
            "1 if the database answers queries, else 0",
            0,
        );
        metrics::register_common(&mut registry);
        // The series of 200 and 503 exist from the start, because a rate misses the first increment
        // of a new series.
        let ok_responses = responses.get_or_create_owned(&status_label(StatusCode::OK));
        drop(responses.get_or_create(&status_label(StatusCode::SERVICE_UNAVAILABLE)));
        Self {
            registry,
            responses,
            ok_responses,
            query_duration,
            batch_queries,
            waiting_queries,
            connections,
            database_up,
        }
    }

    /// Observes how long each of these answered queries took, from its time of queueing.
    pub(crate) fn observe_answers(&self, queued_at: impl Iterator<Item = Instant>) {
        let now = Instant::now();
        for queued_at in queued_at {
            self.query_duration.observe((now - queued_at).as_secs_f64());
        }
    }

    /// Observes the size of a batch that was taken from the queue.
    #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
    pub(crate) fn observe_batch(&self, queries: usize) {
        self.batch_queries.observe(queries as f64);
    }

    /// Counts a response on the public listener.
    pub(crate) fn count_response(&self, status: StatusCode) {
        if status == StatusCode::OK {
            self.ok_responses.inc();
            return;
        }
        self.responses.get_or_create(&status_label(status)).inc();
    }

    pub(crate) fn set_database_up(&self, up: bool) {
        self.database_up.set(up.into());
    }

    /// Encodes all metrics, and returns their content type with them (see [`metrics::encode`]). The
    /// two gauges are passed in, because their values are counted elsewhere.
    pub(crate) fn encode(
        &self,
        accept: Option<&str>,
        waiting_queries: usize,
        connections: usize,
    ) -> (&'static str, String) {
        self.waiting_queries.set(gauge_value(waiting_queries));
        self.connections.set(gauge_value(connections));
        metrics::encode(&self.registry, accept)
    }
}

fn gauge_value(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
