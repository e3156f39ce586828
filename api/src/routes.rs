//! The routing tables of both listeners, and their handlers.
//!
//! A public endpoint is a line in the routing table, and its description in `openapi.json`. One
//! that needs the database maps its path's parameters to a [`Query`]; any other has a handler.

use std::convert::Infallible;
use std::future::ready;

use bytes::Bytes;
use tokio_util::task::TaskTracker;
use warp::header::headers_cloned;
use warp::http::StatusCode;
use warp::http::header::{ACCEPT, HeaderMap};
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::Response;
use warp::{Filter, get, head, path};

use crate::health::Health;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::query::Query;
use crate::queue::Queue;
use crate::response;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The OpenAPI description of the public listener.
const OPENAPI: &[u8] = include_bytes!("../openapi.json");

/// What handlers share.
pub(crate) struct AppState {
    pub(crate) queue: Queue,
    pub(crate) health: &'static Health,
    pub(crate) metrics: &'static Metrics,
    /// The tasks of the public listener's open connections.
    pub(crate) connections: TaskTracker,
}

/// The routes of the public listener.
pub(crate) fn public(
    state: &'static AppState,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    database_route(path::end().map(|| Query::TwoUsers), state)
        .or(local_route(path!("livez"), livez, state))
        .unify()
        .or(local_route(path!("readyz"), readyz, state))
        .unify()
        .or(local_route(path!("openapi.json"), openapi, state))
        .unify()
        .recover(|rejection| ready(Ok(problem_of(&rejection).response())))
        .unify()
}

/// The routes of the admin listener.
pub(crate) fn admin(
    state: &'static AppState,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    local_route(path!("livez"), livez, state)
        .or(local_route(path!("readyz"), readyz, state))
        .unify()
        .or(path!("metrics")
            .and(get_or_head())
            .and(headers_cloned())
            .map(|headers| metrics(state, &headers)))
        .unify()
        .recover(|rejection| ready(Ok(problem_of(&rejection).response())))
        .unify()
}

/// Whether the process is alive.
fn livez(_: &AppState) -> Response {
    ok_response(TEXT, Bytes::from_static(b"ok\n"))
}

/// Whether this replica wants requests.
fn readyz(state: &AppState) -> Response {
    if state.health.is_ready() {
        ok_response(TEXT, Bytes::from_static(b"ok\n"))
    } else {
        Problem::Unavailable.response()
    }
}

fn openapi(_: &AppState) -> Response {
    ok_response(JSON, Bytes::from_static(OPENAPI))
}

fn metrics(state: &AppState, headers: &HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let (waiting, connections) = (state.queue.len(), state.connections.len());
    let (content_type, text) = state.metrics.encode(accept, waiting, connections);
    ok_response(content_type, text.into())
}

/// Queues a query, and returns its JSON body or the problem.
async fn submit(state: &AppState, query: Query) -> Response {
    match state.queue.submit(query).await {
        Ok(body) => ok_response(JSON, body),
        Err(problem) => problem.response(),
    }
}

fn problem_of(rejection: &Rejection) -> Problem {
    if rejection.find::<MethodNotAllowed>().is_some() {
        Problem::MethodNotAllowed
    } else {
        Problem::NotFound
    }
}

fn ok_response(content_type: &'static str, body: Bytes) -> Response {
    response::with_body(StatusCode::OK, content_type, body)
}

/// A route that turns the path's parameters into a [`Query`] and submits it.
fn database_route(
    query: impl Filter<Extract = (Query,), Error = Rejection> + Copy + Send,
    state: &'static AppState,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    query
        .and(get_or_head())
        .then(move |query| submit(state, query))
}

/// A route whose handler reads the replica's own state, without the database.
fn local_route(
    path: impl Filter<Extract = (), Error = Rejection> + Copy + Send,
    handler: fn(&AppState) -> Response,
    state: &'static AppState,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    path.and(get_or_head()).map(move || handler(state))
}

/// Accepts GET and HEAD. hyper omits the body of a response to HEAD.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    get().or(head()).unify()
}
