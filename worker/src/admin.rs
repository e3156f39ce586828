//! The worker's admin listener: health checks and metrics. Never make it public: unlike the api's
//! `edge`, it bounds nothing but the time for a request's head.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shared::program::logs::LastReason;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;
use warp::header::headers_cloned;
use warp::http::StatusCode;
use warp::http::header::{ACCEPT, HeaderMap};
use warp::reject::{MethodNotAllowed, Rejection};
use warp::{Filter, Reply, get, head, path, reply};

use crate::health::Health;
use crate::metrics::Metrics;

/// How long a client may take to send the head of its next request, idle time included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The delay after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves `/livez`, `/readyz` and `/metrics` forever.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Infallible {
    let readyz = move || {
        if health.is_ready() {
            reply::with_status("ok\n", StatusCode::OK)
        } else {
            let reason = "no attempt has had an outcome yet\n";
            reply::with_status(reason, StatusCode::SERVICE_UNAVAILABLE)
        }
    };
    let encode = move |headers: HeaderMap| {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let (content_type, text) = metrics.encode(accept);
        reply::with_header(text, "content-type", content_type)
    };
    let routes = path!("livez")
        // The worker's tasks share one thread, and every call to the database has a timeout. So a
        // response shows that the worker does not hang.
        .map(|| "ok\n")
        .or(path!("readyz").map(readyz))
        .or(path!("metrics").and(headers_cloned()).map(encode))
        // hyper leaves out the body of a response to HEAD.
        .and(get().or(head()).unify())
        .recover(method_not_allowed);
    let service = TowerToHyperService::new(warp::service(routes));
    // Not warp's own server: it adds HTTP/2, and has no timer for the header timeout.
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    let mut connections = JoinSet::new();
    let mut failure = LastReason::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failure.clear();
                    connections.spawn(protocol.serve_connection(TokioIo::new(stream), service.clone()));
                }
                Err(error) => {
                    if failure.replace(error.to_string()) {
                        warn!(event = "accept_failed", %error, "cannot accept connections");
                    }
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            // Not looked at: the error of one client concerns no other.
            Some(_) = connections.join_next() => {}
        }
    }
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
