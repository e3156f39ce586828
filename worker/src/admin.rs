//! The worker's admin listener: health checks and metrics. Not for the public: it has none of the
//! api's limits.

use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::StatusCode;
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::{self, Response};
use warp::{Filter, Reply, get, head, path};

use crate::health::Health;
use crate::metrics::Metrics;

/// Serves `/livez`, `/readyz` and `/metrics` until its task is aborted.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let livez = {
        let health = Arc::clone(&health);
        move || health_response(health.check_liveness())
    };
    let readyz = move || health_response(health.check_readiness());
    let metrics = move || {
        reply::with_header(
            metrics.encode(),
            "content-type",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )
    };
    let routes = path!("livez")
        .map(livez)
        .or(path!("readyz").map(readyz))
        .or(path!("metrics").map(metrics))
        // hyper leaves out the body of a response to HEAD.
        .and(get().or(head()).unify())
        .recover(method_not_allowed);
    warp::serve(routes).incoming(listener).run().await;
}

/// Adds `Allow` to 405. warp responds to every other rejection.
async fn method_not_allowed(rejection: Rejection) -> Result<impl Reply, Rejection> {
    match rejection.find::<MethodNotAllowed>() {
        Some(_) => Ok(reply::with_header(
            StatusCode::METHOD_NOT_ALLOWED,
            "allow",
            "GET, HEAD",
        )),
        None => Err(rejection),
    }
}

fn health_response(result: Result<(), &'static str>) -> Response {
    match result {
        Ok(()) => reply::with_status("ok\n".to_owned(), StatusCode::OK),
        Err(reason) => reply::with_status(format!("{reason}\n"), StatusCode::SERVICE_UNAVAILABLE),
    }
    .into_response()
}
