//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;
use warp::http::header::{CONNECTION, HOST};
use warp::http::uri::{Authority, PathAndQuery};
use warp::http::{HeaderValue, Method, Request, Version};
use warp::reply::Response;

use super::connection_state::{Action, ConnectionState};
use super::reaper::Reaper;
use super::socket::Socket;
use super::{CountResponse, Limits};
use crate::problem::Problem;

/// The most bytes of a request's target. RFC 9110 recommends at least 8,000.
const MAX_TARGET_LEN: usize = 8_000;
/// A client that was rejected may still be sending. Closing at once would reset the connection, and
/// the client would lose the response. So its bytes are read, up to this time and this many.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: u64 = 256 * 1024;

/// What it takes to serve a connection.
#[derive(Clone)]
pub(super) struct ConnectionHandler<Routes> {
    pub(super) protocol: http1::Builder,
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    pub(super) reaper: Arc<Reaper>,
    /// Whether each response closes its connection.
    pub(super) closing: Arc<AtomicBool>,
    pub(super) count_response: CountResponse,
}

impl<Routes> ConnectionHandler<Routes>
where
    Routes: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone,
{
    /// Serves a connection until its client closes it or its time is up.
    pub(super) async fn serve(self, stream: TcpStream) {
        // Without TCP_NODELAY a response could wait for the acknowledgement of the one before. It
        // fails when the client is gone.
        let _ = stream.set_nodelay(true);
        let state = Arc::new(ConnectionState::new(Arc::clone(&self.count_response)));
        self.reaper.watch(&state);
        let socket = Socket::new(stream, Arc::clone(&state));
        let service = service_fn(|request| self.respond(request, &state));
        let mut connection = self
            .protocol
            .serve_connection(TokioIo::new(socket), service);
        let action = loop {
            tokio::select! {
                biased;
                // Not logged: the error of one client concerns no other.
                _ = &mut connection => break Action::Close,
                // We may have been woken to free a slot. Close only if this connection has been
                // idle long enough.
                () = state.woken() => match state.action(self.limits, true) {
                    Action::Keep => {}
                    action => break action,
                },
            }
        };
        let mut socket = connection.into_parts().io.into_inner();
        state.on_close();
        // After a problem that hyper had no request for, a second one would follow it.
        if action == Action::Timeout && !state.is_rejected() {
            socket.reject(Problem::RequestTimeout);
            // It fails for a client that does not even read this.
            let _ = timeout(LINGER_TIMEOUT, socket.flush()).await;
        }
        if state.is_rejected() {
            let _ = timeout(LINGER_TIMEOUT, linger(&mut socket)).await;
        }
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        state: &ConnectionState,
    ) -> Result<Response, Infallible> {
        let problem = problem_before_routing(&mut request, state).await;
        state.on_request();
        // What nobody reads of a request could not be distinguished from the next one.
        let rejected = problem.is_some_and(Problem::ends_connection)
            || !is_get_or_head(request.method()) && !request.body().is_end_stream();
        let mut response = match problem {
            Some(problem) => problem.response(),
            None => self.routes.clone().call(request).await?,
        };
        if rejected {
            state.mark_rejected();
        }
        if rejected || self.closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        state.on_response(response.status());
        Ok(response)
    }
}

/// The problem of a request that no route may get.
async fn problem_before_routing(
    request: &mut Request<Incoming>,
    state: &ConnectionState,
) -> Option<Problem> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", PathAndQuery::as_str);
    let is_path = target.starts_with('/');
    if !is_get_or_head(request.method()) {
        // Before any other complaint: the routes answer 404 or 405. A target that is no path, as of
        // CONNECT or `OPTIONS *`, is for a proxy, or for the server as a whole.
        (!is_path).then_some(Problem::MethodNotAllowed)
    } else if target.len() > MAX_TARGET_LEN {
        Some(Problem::UriTooLong)
    } else if !is_path || !has_valid_host(request) {
        Some(Problem::BadRequest)
    } else if request.body().is_end_stream() {
        None
    } else {
        state.on_incomplete_request();
        match has_content(request.body_mut()).await {
            Ok(false) => None,
            Ok(true) => Some(Problem::ContentTooLarge),
            Err(_) => Some(Problem::BadRequest),
        }
    }
}

/// Whether it is one of the methods that our paths have.
fn is_get_or_head(method: &Method) -> bool {
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

/// Whether a body has content. Of one that is chunked the first chunk must be read: proxies add
/// bodies that have none.
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

/// Ends our side, and reads what the client still sends.
async fn linger(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    copy(&mut socket.take(MAX_LINGER_BYTES), &mut sink()).await?;
    Ok(())
}
