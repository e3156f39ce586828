//! The edge serves connections with the limits and timeouts that warp's own server lacks.
//! Connections come in, requests go to a warp service.
//!
//! Each connection has timeouts: for receiving a head, for idling between requests, and for a
//! client that stops reading. The number of connections is limited, invalid requests get a problem
//! before routing, and a shutdown has phases and a deadline. The edge knows of a request only
//! that it is a GET or HEAD without content.

mod acceptor;
mod checks;
mod connection;
mod connection_state;
mod listener;
mod open_files;
mod reaper;
mod socket;

pub(crate) use listener::Listeners;
pub(crate) use open_files::possible_connections;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use acceptor::Acceptor;
use connection::ConnectionHandler;
use reaper::Reaper;

/// Maximum number of headers in a request.
const MAX_HEADERS: usize = 64;
/// Maximum bytes of a request's head, and so of the buffer that a connection may fill.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// How long a connection must have been idle before it is closed, in a shutdown or to free its slot
/// for a new connection. A busy connection gets `Connection: close` in a shutdown, and stays open
/// at the connection limit.
const MIN_IDLE_BEFORE_EVICTION: Duration = Duration::from_secs(1);

/// Called once for each response, with its status.
pub(crate) type CountResponse = Arc<dyn Fn(StatusCode) + Send + Sync>;

/// The limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// For the head of a request, from the start of the connection or of the request.
    pub(crate) header_timeout: Duration,
    /// Between two requests.
    pub(crate) idle_timeout: Duration,
    /// For a client that does not read its response.
    pub(crate) write_timeout: Duration,
}

impl Limits {
    /// These limits, with an idle timeout that evicts idle connections.
    fn evicting_idle(self) -> Self {
        Self {
            idle_timeout: self.idle_timeout.min(MIN_IDLE_BEFORE_EVICTION),
            ..self
        }
    }
}

/// What a listener does with its connections. The phases follow each other in this order; `Closing`
/// may be left out. `lib.rs` sets them, the acceptor acts on `Closing`, and [`Server::serve`] on
/// `Aborting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It keeps them open.
    Serving,
    /// It closes each with its next response, or once it has been idle for a moment.
    Closing,
    /// It cuts off those that are left.
    Aborting,
}

/// The connections of a listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(TaskTracker);

impl Connections {
    /// How many are open.
    pub(crate) fn open_count(&self) -> usize {
        self.0.len()
    }

    /// Serves a connection in a task of its own.
    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(connection);
    }

    /// Waits until none is open.
    async fn wait_until_ended(&self) {
        // A tracker's wait ends only once the tracker is closed. It still takes new tasks then.
        self.0.close();
        self.0.wait().await;
    }
}

/// The server of one listener.
pub(crate) struct Server {
    pub(crate) limits: Limits,
    /// The connections that it has open.
    pub(crate) connections: Connections,
    pub(crate) count_response: CountResponse,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl Server {
    /// Serves `routes` on `listener` until all connections have ended in [`Phase::Closing`], or
    /// until [`Phase::Aborting`].
    pub(crate) async fn serve<Routes>(self, listener: TcpListener, routes: Routes)
    where
        Routes: Filter<Extract = (Response,), Error = Infallible>
            + Clone
            + Send
            + Sync
            + Unpin
            + 'static,
        Routes::Future: Send,
    {
        let reaper = Arc::new(Reaper::default());
        let handler = ConnectionHandler {
            protocol: protocol(),
            routes: warp::service(routes),
            limits: self.limits,
            reaper: Arc::clone(&reaper),
            closing: Arc::default(),
            count_response: self.count_response,
        };
        let acceptor = Acceptor::new(handler, self.connections);
        let mut phase = self.phase.clone();
        tokio::select! {
            () = acceptor.serve_until_closed(listener, self.phase) => {}
            never = reaper.run(self.limits, || acceptor.idle_to_evict()) => match never {},
            // Fails when the sender is gone, which ends the process as well.
            _ = phase.wait_for(|&phase| phase == Phase::Aborting) => {}
        }
    }
}

fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        // The reaper has this timeout, with one timer for all connections.
        .header_read_timeout(None)
        // A client may close its side after its request and still read the response.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_LEN);
    protocol
}
