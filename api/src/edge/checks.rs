//! What is wrong with a request, before any route sees it.

use std::future::poll_fn;
use std::pin::Pin;

use hyper::body::{Body as _, Incoming};
use warp::http::header::HOST;
use warp::http::uri::{Authority, PathAndQuery};
use warp::http::{Method, Request, Version};

use super::connection_state::ConnectionState;
use crate::problem::Problem;

/// Maximum bytes of a request's target. RFC 9110 recommends at least 8,000.
const MAX_TARGET_LEN: usize = 8_000;

/// The problem of a request that must not reach the routes.
pub(super) async fn problem_before_routing(
    request: &mut Request<Incoming>,
    state: &ConnectionState,
) -> Option<Problem> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", PathAndQuery::as_str);
    let is_path = target.starts_with('/');
    if !is_get_or_head(request.method()) {
        // The routes answer 404 or 405. CONNECT and `OPTIONS *` have no path to route, so they get
        // their 405 here.
        (!is_path).then_some(Problem::MethodNotAllowed)
    } else if target.len() > MAX_TARGET_LEN {
        Some(Problem::UriTooLong)
    } else if !is_path || !has_valid_host(request) {
        Some(Problem::BadRequest)
    } else if request.body().is_end_stream() {
        None
    } else {
        state.on_body_awaited();
        match has_content(request.body_mut()).await {
            Ok(false) => None,
            Ok(true) => Some(Problem::ContentTooLarge),
            Err(_) => Some(Problem::BadRequest),
        }
    }
}

/// Whether it is GET or HEAD, the methods of every path.
pub(super) fn is_get_or_head(method: &Method) -> bool {
    [Method::GET, Method::HEAD].contains(method)
}

/// Whether there is one `Host`, with a host and perhaps a port. HTTP/1.0 needs none.
fn has_valid_host(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < Version::HTTP_11,
        (Some(host), None) => is_valid_host(host.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

/// Whether this is `uri-host [ ":" port ]`. It is empty where a client knows no host.
fn is_valid_host(host: &[u8]) -> bool {
    host.is_empty()
        || Authority::try_from(host).is_ok_and(|authority| {
            // An authority may hold `user@` too, which its host leaves out.
            authority
                .as_str()
                .strip_prefix(authority.host())
                .is_some_and(|rest| {
                    rest.is_empty()
                        || rest
                            .strip_prefix(':')
                            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
                })
        })
}

/// Whether a body has content. A chunked body must be read up to its first chunk, because proxies
/// add chunked bodies that are empty.
async fn has_content(body: &mut Incoming) -> Result<bool, hyper::Error> {
    if body.size_hint().lower() > 0 {
        return Ok(true);
    }
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        if frame?.data_ref().is_some_and(|chunk| !chunk.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}
