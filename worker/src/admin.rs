//! The worker's admin listener, for probes and Prometheus. Not for the outside: it has none of the api's limits.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::StatusCode;
use warp::reply::{self, Response};
use warp::{Filter, Reply};

use crate::metrics::Metrics;

/// Serves `/livez`, `/readyz` and `/metrics` until its task is aborted.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let respond = move |page: fn(&Metrics) -> Response| {
        let metrics = Arc::clone(&metrics);
        warp::get().map(move || page(&metrics))
    };
    let routes = warp::path!("livez")
        .and(respond(|metrics| probe(metrics.alive())))
        .or(warp::path!("readyz").and(respond(|metrics| probe(metrics.ready()))))
        .or(warp::path!("metrics").and(respond(|metrics| {
            reply::with_header(
                metrics.text(),
                "content-type",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )
            .into_response()
        })))
        .recover(|_| async { Ok::<_, Infallible>(StatusCode::NOT_FOUND) });
    warp::serve(routes).incoming(listener).run().await;
}

fn probe(outcome: Result<(), &'static str>) -> Response {
    match outcome {
        Ok(()) => reply::with_status("ok\n".to_owned(), StatusCode::OK),
        Err(reason) => reply::with_status(format!("{reason}\n"), StatusCode::SERVICE_UNAVAILABLE),
    }
    .into_response()
}
