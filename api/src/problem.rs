//! Problems: what a client is told when a request fails (RFC 9457). They never hold an
//! internal message.

use serde_json::json;
use warp::http::header::{ALLOW, RETRY_AFTER};
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;

use crate::response;

/// The methods of every path.
const ALLOWED_METHODS: &str = "GET, HEAD";
/// The value of `Retry-After` with a 503, in seconds.
const RETRY_SECONDS: &str = "1";

/// What can be wrong with a request, or with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The path does not exist.
    NotFound,
    /// The path does not have the method.
    MethodNotAllowed,
    /// The database did not answer in time or was lost, or the replica is not ready.
    Unavailable,
    /// Too many requests are waiting.
    Overloaded,
}

impl Problem {
    /// This problem as a response.
    pub(crate) fn response(self) -> Response {
        let retry = Some((RETRY_AFTER, RETRY_SECONDS));
        let (status, detail, header) = match self {
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "There is nothing at this path.",
                None,
            ),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "This path can only be read.",
                Some((ALLOW, ALLOWED_METHODS)),
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The service can't answer now; try again.",
                retry,
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are waiting; try again.",
                retry,
            ),
        };
        let details = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": detail,
        });
        let mut response = response::with_body(
            status,
            "application/problem+json",
            details.to_string().into(),
        );
        if let Some((name, value)) = header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}
