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
use warp::http::header::CONNECTION;
use warp::http::{HeaderValue, Request};
use warp::reply::Response;

use super::checks::{is_get_or_head, problem_before_routing};
use super::connection_state::{Action, ConnectionState};
use super::reaper::Reaper;
use super::socket::Socket;
use super::{CountResponse, Limits};
use crate::problem::Problem;

/// A client that was rejected may still be sending. Closing at once would reset the connection, and
/// the client would lose the response. So its bytes are read, up to this time and this many.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_LINGER_BYTES: u64 = 256 * 1024;

/// Serves connections, each with a clone of itself.
#[derive(Clone)]
pub(super) struct ConnectionHandler<Routes> {
    pub(super) protocol: http1::Builder,
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    pub(super) reaper: Arc<Reaper>,
    /// Whether each response closes its connection. A copy of the phase: reading the watch takes a
    /// lock, which every response would pay for.
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
        let state = Arc::new(ConnectionState::new(self.limits));
        self.reaper.watch(&state);
        let socket = Socket::new(stream, Arc::clone(&state), Arc::clone(&self.count_response));
        let service = service_fn(|request| self.respond(request, &state));
        let mut connection = self
            .protocol
            .serve_connection(TokioIo::new(socket), service);
        let action = loop {
            tokio::select! {
                biased;
                // Not logged: the error of one client concerns no other.
                _ = &mut connection => break Action::Close,
                action = state.woken() => if action != Action::Keep {
                    break action;
                },
            }
        };
        let mut socket = connection.into_parts().io.into_inner();
        state.on_close();
        // A rejected client has its response already.
        if action == Action::Timeout && !state.is_rejected() {
            socket.reject(Problem::RequestTimeout);
            // It fails for a client that does not even read this.
            let _ = timeout(LINGER_TIMEOUT, socket.flush()).await;
        }
        // Also after the 408 above.
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
        state.on_answering();
        // Unread bytes of this request would be parsed as the next one.
        let has_unread_body = !is_get_or_head(request.method()) && !request.body().is_end_stream();
        let must_close = has_unread_body || problem.is_some_and(Problem::ends_connection);
        let mut response = match problem {
            Some(problem) => problem.response(),
            None => self.routes.clone().call(request).await?,
        };
        if must_close {
            state.mark_rejected();
        }
        if must_close || self.closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        state.on_response();
        (self.count_response)(response.status());
        Ok(response)
    }
}

/// Ends our side, and reads what the client still sends.
async fn linger(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    copy(&mut socket.take(MAX_LINGER_BYTES), &mut sink()).await?;
    Ok(())
}
