//! The worker's admin listener: health checks and metrics. Not for the public: it has none of the
//! api's limits.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::StatusCode;
use warp::reply::{self, Response};
use warp::{Filter, Reply};

use crate::health::Health;
use crate::metrics::Metrics;

/// Serves `/livez`, `/readyz` and `/metrics` until its task is aborted.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let livez = {
        let health = Arc::clone(&health);
        warp::get().map(move || health_response(health.check_liveness()))
    };
    let readyz = warp::get().map(move || health_response(health.check_readiness()));
    let metrics = warp::get().map(move || {
        reply::with_header(
            metrics.encode(),
            "content-type",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
    });
    let routes = warp::path!("livez")
        .and(livez)
        .or(warp::path!("readyz").and(readyz))
        .or(warp::path!("metrics").and(metrics))
        .recover(|_| async { Ok::<_, Infallible>(StatusCode::NOT_FOUND) });
    warp::serve(routes).incoming(listener).run().await;
}

fn health_response(result: Result<(), &'static str>) -> Response {
    match result {
        Ok(()) => reply::with_status("ok\n".to_owned(), StatusCode::OK),
        Err(reason) => reply::with_status(format!("{reason}\n"), StatusCode::SERVICE_UNAVAILABLE),
    }
    .into_response()
}
