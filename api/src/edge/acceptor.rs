//! Accepts connections, serves as many at a time as the limit allows, and stops accepting when the
//! last one has ended in a shutdown.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tower_service::Service;
use tracing::warn;
use warp::http::Request;
use warp::reply::Response;

use super::connection::ConnectionHandler;
use super::{Connections, Phase};

/// How long to wait after a connection could not be accepted, as when there are no more file
/// descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// At the connection limit each sweep closes one in this many connections: idle ones, the oldest
/// first. A burst of new connections finds slots, and most idle clients need not connect again.
const EVICTION_DIVISOR: usize = 64;

/// Accepts the connections of one listener.
pub(super) struct Acceptor<Routes> {
    handler: ConnectionHandler<Routes>,
    connections: Connections,
    /// One permit per connection that may be open. A permit is a slot.
    slots: Arc<Semaphore>,
    /// A connection that was accepted and has no slot yet. Later ones wait in the kernel's queue.
    waiting: Mutex<Option<TcpStream>>,
}

impl<Routes> Acceptor<Routes>
where
    Routes: Service<Request<Incoming>, Response = Response, Error = Infallible>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
    Routes::Future: Send,
{
    /// An acceptor that serves each of these connections with `handler`, in a task of its own.
    pub(super) fn new(handler: ConnectionHandler<Routes>, connections: Connections) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(handler.limits.max_connections)),
            handler,
            connections,
            waiting: Mutex::new(None),
        }
    }

    /// Serves the connections of `listener` until all of them have ended in [`Phase::Closing`].
    pub(super) async fn serve_until_closed(
        &self,
        listener: TcpListener,
        mut phase: watch::Receiver<Phase>,
    ) {
        let close = async {
            // Fails when the sender is gone, which ends the process as well.
            let _ = phase.wait_for(|&phase| phase >= Phase::Closing).await;
            self.handler.closing.store(true, Ordering::Relaxed);
            self.connections.wait_until_ended().await;
        };
        // New connections are accepted until then. In `Phase::Closing` they get one response, with
        // `Connection: close`.
        tokio::select! {
            never = self.accept(&listener) => match never {},
            () = close => {}
        }
        // Dropping the listener would reset the connections that the kernel has queued. So they are
        // served as well, and waited for.
        self.serve_queued(&listener);
        drop(listener);
        self.connections.wait_until_ended().await;
    }

    /// Accepts connections for ever.
    async fn accept(&self, listener: &TcpListener) -> Infallible {
        let mut can_accept = true;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    can_accept = true;
                    self.serve_in_slot(stream).await;
                }
                Err(error) => {
                    // One line until connections are accepted again.
                    if can_accept {
                        warn!(event = "accept_failed", %error, "cannot accept connections");
                    }
                    can_accept = false;
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Waits for a slot, and serves an accepted connection in it. A slot that was taken before
    /// accepting would stay unused until a client comes.
    async fn serve_in_slot(&self, stream: TcpStream) {
        *self.waiting() = Some(stream);
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        let stream = self.waiting().take();
        let stream = stream.expect("only a shutdown takes it, which ends this future first");
        let handler = self.handler.clone();
        self.connections.spawn(async move {
            handler.serve(stream).await;
            drop(slot);
        });
    }

    /// Serves the connections that wait for a slot or in the kernel's queue, even above the limit.
    fn serve_queued(&self, listener: &TcpListener) {
        let queued = std::iter::from_fn(|| match listener.accept().now_or_never() {
            Some(Ok((stream, _))) => Some(stream),
            _ => None,
        });
        for stream in self.waiting().take().into_iter().chain(queued) {
            self.connections.spawn(self.handler.clone().serve(stream));
        }
    }

    /// How many idle connections should be closed.
    pub(super) fn idle_to_evict(&self) -> usize {
        if self.handler.closing.load(Ordering::Relaxed) {
            // All of them.
            usize::MAX
        } else if self.waiting().is_some() {
            let limit = self.handler.limits.max_connections;
            limit.div_ceil(EVICTION_DIVISOR)
        } else {
            0
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.waiting
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
