//! Problems: what a client is told when a request fails (RFC 9457). They never hold an
//! internal message.

use std::fmt::Write;

use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;
use warp::http::header::{ALLOW, RETRY_AFTER};
use warp::http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::response::response;

/// The methods of every path.
const ALLOWED_METHODS: &str = "GET, HEAD";
/// Seconds after which a request that got 503 may be sent again.
const RETRY_SECONDS: &str = "1";

/// What can be wrong with a request, or with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is not valid HTTP.
    BadRequest,
    /// The path does not exist.
    NotFound,
    /// The path does not have the method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The request is a GET or HEAD with content.
    ContentTooLarge,
    /// The target of the request is too long.
    UriTooLong,
    /// The request has too many headers, or too long ones.
    HeadersTooLarge,
    /// The database did not answer in time, or the replica is not ready.
    Unavailable,
    /// Too many requests are waiting.
    Overloaded,
}

/// The body of a problem.
#[derive(Serialize)]
pub(crate) struct Details {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
}

impl Problem {
    /// The status, and the sentence that the client gets.
    fn status_and_detail(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest => (
                StatusCode::BAD_REQUEST,
                "The request is not well-formed HTTP/1.1.",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "There is nothing at this path."),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "This path can only be read.",
            ),
            Self::RequestTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "The request took too long to arrive.",
            ),
            Self::ContentTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "A request here has no body."),
            Self::UriTooLong => (
                StatusCode::URI_TOO_LONG,
                "The target of the request is too long.",
            ),
            Self::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The request has too many or too long headers.",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The service can't answer now; try again.",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many requests are waiting; try again.",
            ),
        }
    }

    /// The header that this problem has beside those of all responses.
    pub(crate) fn header(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::MethodNotAllowed => Some((ALLOW, ALLOWED_METHODS)),
            Self::Unavailable | Self::Overloaded => Some((RETRY_AFTER, RETRY_SECONDS)),
            Self::BadRequest
            | Self::NotFound
            | Self::RequestTimeout
            | Self::ContentTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge => None,
        }
    }

    /// Whether the connection ends with it, because what else the client sends would be parsed as
    /// the next request.
    pub(crate) fn ends_connection(self) -> bool {
        match self {
            Self::BadRequest
            | Self::RequestTimeout
            | Self::ContentTooLarge
            | Self::UriTooLong
            | Self::HeadersTooLarge => true,
            Self::NotFound | Self::MethodNotAllowed | Self::Unavailable | Self::Overloaded => false,
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.status_and_detail().0
    }

    /// This problem as a response.
    pub(crate) fn response<Body: From<Bytes>>(self) -> Response<Body> {
        let (status, detail) = self.status_and_detail();
        let details = Details {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
        };
        let body = serde_json::to_vec(&details).expect("strings and numbers can be encoded");
        let mut response = response(status, "application/problem+json", body.into());
        if let Some((name, value)) = self.header() {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// This problem as the bytes of an HTTP/1.1 response, for where no request could be read.
    pub(crate) fn bytes(self) -> Bytes {
        let response = self.response::<Bytes>();
        let mut head = format!("HTTP/1.1 {}\r\n", response.status());
        for (name, value) in response.headers() {
            let value = value.to_str().expect("our headers are ASCII");
            write!(head, "{name}: {value}\r\n").expect("writing to a string cannot fail");
        }
        let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
        let length = response.body().len();
        write!(
            head,
            "connection: close\r\ndate: {date}\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("writing to a string cannot fail");
        [head.as_bytes(), response.body()].concat().into()
    }
}
