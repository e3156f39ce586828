//! The edge serves connections with the limits and timeouts that warp's own server lacks.
//! Connections come in, requests go to a warp service.
//!
//! It limits the number of connections, times out clients that do not send, and shuts down without
//! losing a request. hyper limits the size of a request's head, and answers what it can't parse.
//! The kernel closes connections whose client does not read (`TCP_USER_TIMEOUT`, set in
//! `listener`).

mod listener;
pub(crate) mod open_files;
mod progress;

pub(crate) use listener::Listeners;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use shared::program::logs::LastReason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::io::InspectReader;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::warn;
use warp::http::header::CONNECTION;
use warp::http::{HeaderValue, Request};
use warp::reply::Response;

use crate::metrics::Metrics;
use crate::problem::Problem;
use listener::{next_connection, take_queued};
use progress::{CHECK_INTERVAL, Progress, Stage};

/// Maximum number of headers in a request.
const MAX_HEADERS: usize = 64;
/// Maximum bytes of a request's head, and so of the buffer that a connection may fill.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// The idle timeout after the drain delay, and while no slot is free, unless the usual one is
/// shorter.
const EARLY_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay after a failed accept, for example when file descriptors have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves the public listeners, or the admin listeners.
pub(crate) struct Server<Routes> {
    pub(crate) max_connections: usize,
    /// How long a request may take to arrive, from the accept or from its first byte.
    pub(crate) header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub(crate) idle_timeout: Duration,
    /// The tasks of the open connections. [`Self::serve`] closes the tracker to begin a shutdown.
    pub(crate) connections: TaskTracker,
    /// Counts the responses of the public listener.
    pub(crate) metrics: Option<&'static Metrics>,
    pub(crate) routes: Routes,
}

impl<Routes> Server<Routes>
where
    Routes: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    /// Serves all `listeners`. After `closing` each connection ends with its next response, or when
    /// idle for [`EARLY_IDLE_TIMEOUT`]. New ones are still served. Returns when none is left.
    pub(crate) async fn serve(
        self,
        mut listeners: Vec<TcpListener>,
        closing: impl Future<Output = ()>,
    ) {
        let server = Arc::new(self);
        let closed = async {
            closing.await;
            // A closed tracker still takes tasks.
            server.connections.close();
            server.connections.wait().await;
        };
        tokio::select! {
            never = Arc::clone(&server).accept(&mut listeners) => match never {},
            () = closed => {}
        }
        // Dropping the listeners would reset the connections that the kernel has queued. So they
        // are served as well, even above the limit.
        for stream in listeners.into_iter().flat_map(take_queued) {
            Arc::clone(&server).spawn(stream, None);
        }
        server.connections.wait().await;
    }

    /// Accepts connections forever. At the limit, further ones wait in the kernel's queue.
    async fn accept(self: Arc<Self>, listeners: &mut [TcpListener]) -> Infallible {
        // A permit for each connection that may be open.
        let slots = Arc::new(Semaphore::new(self.max_connections));
        let mut failure = LastReason::default();
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("the semaphore is never closed");
            match next_connection(listeners).await {
                Ok(stream) => {
                    failure.clear();
                    Arc::clone(&self).spawn(stream, Some(slot));
                }
                Err(error) => {
                    if failure.replace(error.to_string()) {
                        warn!(event = "accept_failed", %error, "cannot accept connections");
                    }
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Serves a connection in a task of its own, until either side closes it or its time is up.
    fn spawn(self: Arc<Self>, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        self.connections.clone().spawn(async move {
            self.serve_connection(stream).await;
            drop(slot);
        });
    }

    async fn serve_connection(&self, stream: TcpStream) {
        // Without TCP_NODELAY a response could wait for the acknowledgement of the one before. It
        // fails when the client is gone.
        let _ = stream.set_nodelay(true);
        let progress = Progress::new();
        let stream = TokioIo::new(InspectReader::new(stream, |_| progress.on_read()));
        let service = service_fn(|request| self.respond(request, &progress));
        let mut connection = protocol().serve_connection(stream, service);
        // Resetting the timer for each request would cost each of them. Instead, the timer checks
        // the connection's progress whenever it fires.
        let mut timer = pin!(sleep(CHECK_INTERVAL));
        loop {
            tokio::select! {
                biased;
                // Not logged: the error of one client concerns no other.
                _ = &mut connection => break,
                () = &mut timer => {
                    match progress.next_check(self.header_timeout, self.current_idle_timeout()) {
                        Some(next) => timer.as_mut().reset(next),
                        None => break,
                    }
                }
            }
        }
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        progress: &Progress,
    ) -> Result<Response, Infallible> {
        // The content is read and ignored. If some were still to arrive, hyper would close the
        // connection, and the client's next request would fail.
        while let Some(Ok(_)) = request.body_mut().frame().await {}
        progress.set(Stage::Answering);
        let mut response = if request.uri().path().starts_with('/') {
            self.routes.clone().call(request).await?
        } else {
            // Some of warp's path filters panic at these targets: `CONNECT host:443`, `OPTIONS *`.
            Problem::MethodNotAllowed.response()
        };
        // hyper's own graceful shutdown would close an idle connection at once, and lose a request
        // that is on its way.
        if self.is_closing() {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // hyper has yet to write the response, which fits into the socket's buffer.
        progress.set(Stage::Idle);
        if let Some(metrics) = self.metrics {
            metrics.count_response(response.status());
        }
        Ok(response)
    }

    /// Whether each connection ends with its next response: after the drain delay.
    fn is_closing(&self) -> bool {
        self.connections.is_closed()
    }

    /// Idle connections are closed early after the drain delay, and when no slot is free for a new
    /// one.
    fn current_idle_timeout(&self) -> Duration {
        let is_full = self.connections.len() >= self.max_connections;
        if is_full || self.is_closing() {
            self.idle_timeout.min(EARLY_IDLE_TIMEOUT)
        } else {
            self.idle_timeout
        }
    }
}

fn protocol() -> http1::Builder {
    // hyper gets no timer, which it would set for each request: `Progress` has the timeouts.
    let mut protocol = http1::Builder::new();
    protocol
        // A client may close its side after its request and still read the response.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_LEN)
        // Copying a small response into one buffer is cheaper than `writev` with two buffers.
        .writev(false);
    protocol
}
