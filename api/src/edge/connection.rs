//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Abortable, Aborted};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tower_service::Service;
use warp::http::header::{CONNECTION, HOST};
use warp::http::uri::PathAndQuery;
use warp::http::{HeaderValue, Method, Request, Version};
use warp::reply::Response;

use super::activity::{Activity, Verdict};
use super::lookout::Lookout;
use super::socket::Socket;
use super::{Limits, Phase};
use crate::metrics::Metrics;
use crate::problem::Problem;

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
    pub(super) lookout: Arc<Lookout>,
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
        let verdict = loop {
            let called = self.lookout.begin(&activity);
            match Abortable::new(&mut connection, called).await {
                // An error of one client is nobody else's business.
                Ok(_) => break Verdict::Fine,
                // Places are needed, maybe; who gives his up has still been idle for long enough.
                Err(Aborted) => match activity.verdict(self.limits, true) {
                    Verdict::Fine => {}
                    verdict => break verdict,
                },
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

    /// Whether a stop has come so far that connections end. No receiver of this host ever marks a phase as seen, and copies
    /// inherit that, so that any change is one from the first phase. To look at the value would take a lock that all
    /// connections share.
    fn is_closing(&self) -> bool {
        self.phase.has_changed().unwrap_or(true)
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
        if self.is_closing() {
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
