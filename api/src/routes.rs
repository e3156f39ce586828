//! The routing tables of both listeners, and their handlers.

use std::convert::Infallible;
use std::future::ready;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::Response;
use warp::{Filter, get, head, path};

use crate::coalesce::Line;
use crate::edge::Connections;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::problem::Problem;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The most bytes of a `traceparent`: the W3C's has 55.
const LONGEST_TRACE: usize = 64;

/// What the handlers know.
pub(crate) struct Replica {
    pub(crate) line: Line,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) connections: Connections,
    pub(crate) description: Bytes,
}

/// What is served to everybody.
pub(crate) fn public(
    replica: &'static Replica,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    let page = |name, page| {
        pages(replica, name, page).map(move |response: Response| {
            replica.metrics.responded(response.status());
            response
        })
    };
    let query = path::end().and(reads()).and(trace());
    query
        .then(move |trace| query_of(replica, trace))
        .or(page("livez", livez))
        .unify()
        .or(page("readyz", readyz))
        .unify()
        .or(page("openapi.json", description))
        .unify()
        .recover(move |rejection| ready(Ok(refuse(replica, &rejection))))
        .unify()
}

/// What is served to operators.
pub(crate) fn admin(
    replica: &'static Replica,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + use<> {
    let page = |name, page| pages(replica, name, page);
    page("livez", livez)
        .or(page("readyz", readyz))
        .unify()
        .or(page("metrics", metrics))
        .unify()
        .recover(|rejection| ready(Ok(problem_of(&rejection).response())))
        .unify()
}

async fn query_of(replica: &'static Replica, trace: Option<Trace>) -> Response {
    match replica.line.ask(trace.map(|Trace(parent)| parent)).await {
        Ok(body) => content(JSON, body),
        Err(problem) => {
            replica.metrics.responded(problem.status());
            problem.response()
        }
    }
}

fn livez(_: &Replica) -> Response {
    content(TEXT, Bytes::from_static(b"ok\n"))
}

fn readyz(replica: &Replica) -> Response {
    if replica.health.is_ready() {
        content(TEXT, Bytes::from_static(b"ok\n"))
    } else {
        Problem::Unavailable.response()
    }
}

fn description(replica: &Replica) -> Response {
    content(JSON, replica.description.clone())
}

fn metrics(replica: &Replica) -> Response {
    let text = replica
        .metrics
        .text(replica.line.length(), replica.connections.open());
    content(OPEN_METRICS, text.into())
}

fn refuse(replica: &Replica, rejection: &Rejection) -> Response {
    let problem = problem_of(rejection);
    replica.metrics.responded(problem.status());
    problem.response()
}

fn problem_of(rejection: &Rejection) -> Problem {
    if rejection.find::<MethodNotAllowed>().is_some() {
        Problem::MethodNotAllowed
    } else {
        Problem::NotFound
    }
}

fn content(content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A page that only looks at the replica, and asks no database.
fn pages(
    replica: &'static Replica,
    name: &'static str,
    page: fn(&Replica) -> Response,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    path(name)
        .and(path::end())
        .and(reads())
        .map(move || page(replica))
}

/// GET, and HEAD, of which hyper leaves the body out.
fn reads() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    get().or(head()).unify()
}

/// The `traceparent` header, as it came.
#[derive(Clone)]
struct Trace(String);

impl FromStr for Trace {
    type Err = TooLong;

    fn from_str(text: &str) -> Result<Self, TooLong> {
        if text.len() > LONGEST_TRACE {
            return Err(TooLong);
        }
        Ok(Self(text.to_owned()))
    }
}

struct TooLong;

/// The caller's trace; one that is no text, or too long to be one, counts as none.
fn trace() -> impl Filter<Extract = (Option<Trace>,), Error = Rejection> + Copy {
    warp::header::optional::<Trace>("traceparent")
        .or_else(|_| async { Ok::<_, Rejection>((None,)) })
}
