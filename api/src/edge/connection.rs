//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::io;
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
use warp::http::uri::PathAndQuery;
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
        request: Request<Incoming>,
        state: &ConnectionState,
    ) -> Result<Response, Infallible> {
        state.on_request();
        let mut response = if let Some(problem) = problem_before_routing(&request) {
            if problem.ends_connection() {
                state.mark_rejected();
            }
            problem.response()
        } else {
            self.routes.clone().call(request).await?
        };
        if self.closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        state.on_response(response.status());
        Ok(response)
    }
}

/// The problem of a request that no route may get.
fn problem_before_routing(request: &Request<Incoming>) -> Option<Problem> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", PathAndQuery::as_str);
    let hosts = request.headers().get_all(HOST).iter().count();
    let has_valid_host = hosts == 1 || hosts == 0 && request.version() < Version::HTTP_11;
    if !request.body().is_end_stream() {
        Some(Problem::ContentTooLarge)
    } else if target.len() > MAX_TARGET_LEN {
        Some(Problem::UriTooLong)
    } else if request.method() == Method::CONNECT || target == "*" {
        // They are for a proxy, or for the server as a whole.
        Some(Problem::MethodNotAllowed)
    } else if !has_valid_host || !target.starts_with('/') {
        Some(Problem::BadRequest)
    } else {
        None
    }
}

/// Ends our side, and reads what the client still sends.
async fn linger(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    copy(&mut socket.take(MAX_LINGER_BYTES), &mut sink()).await?;
    Ok(())
}
