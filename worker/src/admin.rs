//! The worker's admin listener: health checks and metrics. Not for the public: it has none of the
//! api's limits.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use tokio::net::TcpListener;
use warp::http::StatusCode;
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::{self, Response};
use warp::{Filter, Reply};

use crate::health::Health;
use crate::metrics::Metrics;

/// Serves `/livez`, `/readyz` and `/metrics` until its task is aborted.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) {
    let livez = {
        let health = Arc::clone(&health);
        get_or_head().map(move || health_response(health.check_liveness()))
    };
    let readyz = get_or_head().map(move || health_response(health.check_readiness()));
    let metrics = get_or_head().map(move || {
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
        .recover(|rejection| ready(Ok::<_, Infallible>(rejected(&rejection))));
    warp::serve(routes).incoming(listener).run().await;
}

/// GET, and HEAD, of which hyper leaves the body out.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

fn rejected(rejection: &Rejection) -> Response {
    if rejection.find::<MethodNotAllowed>().is_some() {
        let response = reply::with_header(StatusCode::METHOD_NOT_ALLOWED, "allow", "GET, HEAD");
        response.into_response()
    } else {
        StatusCode::NOT_FOUND.into_response()
    }
}

fn health_response(result: Result<(), &'static str>) -> Response {
    match result {
        Ok(()) => reply::with_status("ok\n".to_owned(), StatusCode::OK),
        Err(reason) => reply::with_status(format!("{reason}\n"), StatusCode::SERVICE_UNAVAILABLE),
    }
    .into_response()
}
