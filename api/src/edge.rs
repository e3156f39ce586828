//! The edge: what warp's own server leaves open. Connections come in, requests go to a warp service.
//!
//! Each connection is watched: how long a head takes, how long it is idle, how long its client reads nothing. Their
//! number is limited, what can't be a request here is refused before it is routed, and a stop has its phases and its
//! deadline. What a request is about is not known here.

mod activity;
mod connection;
mod listener;
mod lookout;
mod socket;

pub(crate) use listener::{Listeners, affordable_connections};

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::warn;
use warp::Filter;
use warp::http::Request;
use warp::reply::Response;

use crate::metrics::Metrics;
use connection::Host;
use lookout::Lookout;

/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// The most bytes of a request's head, and so of the buffer that a connection may fill.
const MAX_HEAD: usize = 16 * 1024;
/// The pause after the kernel could not hand over a connection, as when file descriptors have run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Which part of all connections makes room at a time, if it is idle, when there is none: a burst of newcomers finds places,
/// and the others need not connect again.
const SHARE: usize = 64;

/// What a client may take its time for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at a time.
    pub(crate) connections: usize,
    /// For the head of a request, from the connection's or the request's first moment.
    pub(crate) header: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// To read an answer.
    pub(crate) write: Duration,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It has not begun, or load balancers have not seen it yet.
    Serving,
    /// Each connection ends with its next answer, or when it has been idle for a moment.
    Closing,
    /// Whoever is still here is cut off.
    Over,
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

/// Serves `routes` on `listener` until the stop is over: all connections have ended, or were cut off.
pub(crate) async fn serve<Routes>(
    listener: TcpListener,
    routes: Routes,
    limits: Limits,
    connections: Connections,
    metrics: Arc<Metrics>,
    phase: watch::Receiver<Phase>,
) where
    Routes:
        Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + Unpin + 'static,
    Routes::Future: Send,
{
    let mut protocol = http1::Builder::new();
    protocol
        // The timer is ours: hyper's starts anew with every request, ours looks now and then.
        .header_read_timeout(None)
        // A client that has said all may close its side before it hears the answer.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    let places = Arc::new(Semaphore::new(limits.connections));
    let host = Host {
        protocol,
        routes: warp::service(routes),
        limits,
        lookout: Arc::new(Lookout::default()),
        phase: phase.clone(),
        metrics,
    };
    let Connections(tasks) = connections;
    let conversations = async {
        let mut later = phase.clone();
        tokio::select! {
            () = accept(&listener, &host, &places, &tasks) => {}
            () = ended(&tasks, &mut later) => {}
        }
        // Whoever knocked until now is still answered.
        while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            tasks.spawn(host.clone().converse(stream));
        }
        drop(listener);
        ended(&tasks, &mut later).await;
    };
    let needed = || {
        if *phase.borrow() != Phase::Serving {
            usize::MAX
        } else if places.available_permits() == 0 {
            limits.connections.div_ceil(SHARE)
        } else {
            0
        }
    };
    tokio::select! {
        () = conversations => {}
        () = host.lookout.keep(limits, needed) => {}
    }
}

/// Waits until the stop has come so far that connections end, and then for the last of them, or for the end of patience.
async fn ended(tasks: &TaskTracker, phase: &mut watch::Receiver<Phase>) {
    // These waits fail when the sender is gone, which ends everything, too.
    let _ = phase.wait_for(|&phase| phase >= Phase::Closing).await;
    tasks.close();
    tokio::select! {
        () = tasks.wait() => {}
        _ = phase.wait_for(|&phase| phase == Phase::Over) => {}
    }
}

/// Accepts connections for ever, as many at a time as the limit allows: the others wait in the kernel's queue.
async fn accept<Routes>(
    listener: &TcpListener,
    host: &Host<Routes>,
    places: &Arc<Semaphore>,
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
    let mut accepting = true;
    loop {
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                accepting = true;
                let host = host.clone();
                tasks.spawn(async move {
                    host.converse(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Once, until it is over.
                if accepting {
                    warn!("connections can't be accepted: {error}");
                }
                accepting = false;
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
