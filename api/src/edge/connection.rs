//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tower_service::Service;
use warp::http::header::{CONNECTION, HOST};
use warp::http::uri::PathAndQuery;
use warp::http::{HeaderValue, Method, Request, Version};
use warp::reply::Response;

use super::activity::{Activity, Verdict};
use super::socket::Socket;
use super::{Limits, Phase};
use crate::metrics::Metrics;
use crate::problem::Problem;

/// How often a connection is looked at: the precision of all its limits.
const GLANCE: Duration = Duration::from_secs(1);
/// The most bytes of a request's target (RFC 9110 recommends at least 8,000).
const MAX_TARGET: usize = 8_000;
/// A client that was refused may still be sending; closing at once would reset the connection and lose the answer. So
/// it is listened to for a moment, up to this time and this many bytes.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 * 1024;

/// What a connection needs to be served.
#[derive(Clone)]
pub(super) struct Host<Routes> {
    pub(super) protocol: http1::Builder,
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    /// Those that are left for further connections.
    pub(super) places: Arc<Semaphore>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) metrics: Arc<Metrics>,
}

impl<Routes> Host<Routes>
where
    Routes: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone,
{
    /// Serves a connection until it ends, by itself or by a verdict.
    pub(super) async fn converse(self, stream: TcpStream) {
        // Without it an answer could wait for the acknowledgement of the one before. It fails when the client is gone.
        let _ = stream.set_nodelay(true);
        let activity = Arc::new(Activity::new());
        let socket = Socket::new(stream, Arc::clone(&activity), Arc::clone(&self.metrics));
        let service = service_fn(|request| self.respond(request, &activity));
        let mut connection = self
            .protocol
            .serve_connection(TokioIo::new(socket), service);
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let verdict = loop {
            tokio::select! {
                // An error of one client is nobody else's business.
                _ = &mut connection => break Verdict::Fine,
                _ = glance.tick() => match activity.verdict(self.limits, self.is_in_need()) {
                    Verdict::Fine => {}
                    verdict => break verdict,
                }
            }
        };
        let mut socket = connection.into_parts().io.into_inner();
        if verdict == Verdict::Slow {
            let problem = Problem::RequestTimeout;
            self.metrics.responded(problem.status());
            activity.refuse();
            let bytes = problem.bytes();
            // Nothing can be done for a client that does not even take this.
            let _ = timeout(LINGER, async { socket.write_all(&bytes).await }).await;
        }
        if activity.is_refused() {
            let _ = timeout(LINGER, linger(&mut socket)).await;
        }
    }

    /// Whether a connection that does nothing is one too many.
    fn is_in_need(&self) -> bool {
        *self.phase.borrow() != Phase::Serving || self.places.available_permits() == 0
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        activity: &Activity,
    ) -> Result<Response, Infallible> {
        activity.serving();
        let mut response = if let Some(problem) = refusal(&request) {
            self.metrics.responded(problem.status());
            if problem.ends_connection() {
                activity.refuse();
            }
            problem.response()
        } else {
            self.routes.clone().call(request).await?
        };
        if *self.phase.borrow() != Phase::Serving {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        activity.answered();
        Ok(response)
    }
}

/// What can't be a request here, whatever the routes are.
fn refusal(request: &Request<Incoming>) -> Option<Problem> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("", PathAndQuery::as_str);
    let hosts = request.headers().get_all(HOST).iter().count();
    let fits_host = hosts == 1 || hosts == 0 && request.version() < Version::HTTP_11;
    if !request.body().is_end_stream() {
        Some(Problem::ContentTooLarge)
    } else if target.len() > MAX_TARGET {
        Some(Problem::UriTooLong)
    } else if request.method() == Method::CONNECT || target == "*" {
        // They concern a proxy, or the server as a whole.
        Some(Problem::MethodNotAllowed)
    } else if !fits_host || !target.starts_with('/') {
        Some(Problem::BadRequest)
    } else {
        None
    }
}

/// Says that no more will come, and hears the client out.
async fn linger(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    copy(&mut socket.take(LINGER_BYTES), &mut sink()).await?;
    Ok(())
}
