//! Accepts connections, and serves as many at a time as the limit allows.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::warn;
use warp::http::Request;
use warp::reply::Response;

use super::connection::ConnectionHandler;

/// The delay after a connection could not be accepted, as when file descriptors have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// At the connection limit each sweep closes one in this many connections: idle ones, the oldest
/// first. A burst of new connections finds slots, and most idle clients need not connect again.
const EVICTION_DIVISOR: usize = 64;

/// The slots of a listener, and who waits for one.
pub(super) struct Acceptor<Routes> {
    handler: ConnectionHandler<Routes>,
    tasks: TaskTracker,
    /// As many as connections may be open. A permit is a slot.
    slots: Arc<Semaphore>,
    /// A connection that was accepted and has no slot yet. The others wait in the kernel's queue.
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
    /// An acceptor that serves connections with `handler`, each in a task of `tasks`.
    pub(super) fn new(handler: ConnectionHandler<Routes>, tasks: TaskTracker) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(handler.limits.max_connections)),
            handler,
            tasks,
            waiting: Mutex::new(None),
        }
    }

    /// Accepts connections for ever.
    pub(super) async fn run(&self, listener: &TcpListener) {
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

    /// Waits for a slot, and serves the accepted connection in it. A slot that was taken before
    /// accepting would stay empty until a client comes.
    async fn serve_in_slot(&self, stream: TcpStream) {
        *self.waiting() = Some(stream);
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("the semaphore is never closed");
        let stream = self.waiting().take();
        let stream = stream.expect("only a shutdown takes it, which ends this future first");
        let handler = self.handler.clone();
        self.tasks.spawn(async move {
            handler.serve(stream).await;
            drop(slot);
        });
    }

    /// Serves the connections that wait for a slot or in the kernel now, whatever the limit is.
    pub(super) fn serve_queued(&self, listener: &TcpListener) {
        let queued = std::iter::from_fn(|| match listener.accept().now_or_never() {
            Some(Ok((stream, _))) => Some(stream),
            _ => None,
        });
        for stream in self.waiting().take().into_iter().chain(queued) {
            self.tasks.spawn(self.handler.clone().serve(stream));
        }
    }

    /// How many idle connections should give up their slots.
    pub(super) fn slots_to_free(&self) -> usize {
        if self.waiting().is_some() {
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
