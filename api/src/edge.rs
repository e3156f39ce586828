//! The edge serves connections with the limits and timeouts that warp's own server lacks.
//! Connections come in, requests go to a warp service.
//!
//! Each connection has timeouts: for a head, between requests, for a client that does not read. The
//! number of connections is limited, invalid requests get a problem before routing, and a shutdown
//! has stages and a deadline. The edge does not know what a request is about.

mod checks;
mod connection;
mod connection_state;
mod listener;
mod reaper;
mod socket;

pub(crate) use listener::{Listeners, raise_open_files_limit};

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::warn;
use warp::Filter;
use warp::http::{Request, StatusCode};
use warp::reply::Response;

use connection::ConnectionHandler;
use reaper::Reaper;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// The most bytes of a request's head, and so of the buffer that a connection may fill.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// The delay after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// At the connection limit, one in so many connections is closed per sweep if it is idle. A burst
/// of new connections finds slots, and most idle clients need not connect again.
const EVICTION_DIVISOR: usize = 64;

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

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shutdown {
    /// It has not begun, or load balancers have not noticed it yet.
    NotStarted,
    /// Each connection closes with its next response, or once it has been idle for a moment.
    Close,
    /// The connections that are left are cut off.
    Abort,
}

/// The connections of a listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(TaskTracker);

impl Connections {
    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.0.len()
    }
}

/// Serves `routes` on `listener` until the shutdown is over: all connections have ended, or were
/// cut off.
pub(crate) async fn serve<Routes>(
    listener: TcpListener,
    routes: Routes,
    limits: Limits,
    connections: Connections,
    count_response: CountResponse,
    shutdown: watch::Receiver<Shutdown>,
) where
    Routes:
        Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + Unpin + 'static,
    Routes::Future: Send,
{
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let handler = ConnectionHandler {
        protocol: protocol(),
        routes: warp::service(routes),
        limits,
        reaper: Arc::new(Reaper::default()),
        closing: Arc::default(),
        count_response,
    };
    let Connections(tasks) = connections;
    let waiting = Mutex::new(None);
    let serving = async {
        let mut shutdown = shutdown.clone();
        tokio::select! {
            () = accept(&listener, &handler, &permits, &waiting, &tasks) => {}
            () = close_connections(&tasks, &mut shutdown, &handler.closing) => {}
        }
        // Connections that wait for a slot or in the kernel until now are still served.
        if let Some(stream) = lock(&waiting).take() {
            tasks.spawn(handler.clone().serve(stream));
        }
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            tasks.spawn(handler.clone().serve(stream));
        }
        drop(listener);
        close_connections(&tasks, &mut shutdown, &handler.closing).await;
    };
    let slots_needed = || {
        if *shutdown.borrow() != Shutdown::NotStarted {
            usize::MAX
        } else if lock(&waiting).is_some() {
            limits.max_connections.div_ceil(EVICTION_DIVISOR)
        } else {
            0
        }
    };
    tokio::select! {
        () = serving => {}
        () = handler.reaper.run(limits, slots_needed) => {}
    }
}

fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        // The reaper has this timeout, at one timer for all connections.
        .header_read_timeout(None)
        // A client may close its side after its request and still read the response.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_LEN);
    protocol
}

/// Waits for [`Shutdown::Close`], then until all connections have ended or for [`Shutdown::Abort`].
/// Connections that are accepted meanwhile get one response, with `Connection: close`.
async fn close_connections(
    tasks: &TaskTracker,
    shutdown: &mut watch::Receiver<Shutdown>,
    closing: &AtomicBool,
) {
    // These waits fail when the sender is gone, which ends the process as well.
    let _ = shutdown.wait_for(|&stage| stage >= Shutdown::Close).await;
    closing.store(true, Ordering::Relaxed);
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        _ = shutdown.wait_for(|&stage| stage == Shutdown::Abort) => {}
    }
}

/// Accepts connections for ever, and serves as many at a time as there are permits. One more waits
/// in `waiting` for its permit, the others in the kernel's queue.
async fn accept<Routes>(
    listener: &TcpListener,
    handler: &ConnectionHandler<Routes>,
    permits: &Arc<Semaphore>,
    waiting: &Mutex<Option<TcpStream>>,
    tasks: &TaskTracker,
) where
    Routes: Service<Request<Incoming>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
    Routes::Future: Send,
{
    let mut can_accept = true;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                can_accept = true;
                // A permit that was taken before would be missing while nobody connects.
                *lock(waiting) = Some(stream);
                let permit = Arc::clone(permits).acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                let stream = lock(waiting).take();
                let stream = stream.expect("nobody else takes it before the shutdown");
                let handler = handler.clone();
                tasks.spawn(async move {
                    handler.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // One line until connections are accepted again.
                if can_accept {
                    warn!(%error, "cannot accept connections");
                }
                can_accept = false;
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

fn lock(waiting: &Mutex<Option<TcpStream>>) -> MutexGuard<'_, Option<TcpStream>> {
    waiting
        .lock()
        .expect("nothing panics while it holds this lock")
}
