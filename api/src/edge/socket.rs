//! A connection's socket: it notes what happens, and gives the refusals that hyper writes by itself a body.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::activity::Activity;
use crate::metrics::Metrics;
use crate::problem::Problem;

/// A TCP stream under watch.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    /// What was put in the place of what hyper wrote, as far as it has not been sent.
    unsent: Bytes,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, metrics: Arc<Metrics>) -> Self {
        Self {
            stream,
            activity,
            metrics,
            unsent: Bytes::new(),
        }
    }

    /// hyper answers what it can't parse by itself: a status without a body, and so without the `Content-Type` that
    /// every refusal of ours has.
    fn refusal(&self, written: &[u8]) -> Option<Problem> {
        let line = written
            .strip_prefix(b"HTTP/1.1 4")
            .or(written.strip_prefix(b"HTTP/1.0 4"));
        let status = line?.get(..2)?;
        if written.windows(13).any(|window| window == b"content-type:") {
            return None;
        }
        match status {
            b"14" => Some(Problem::UriTooLong),
            b"31" if self.activity.is_in_first_line() => Some(Problem::UriTooLong),
            b"31" => Some(Problem::HeadersTooLarge),
            _ => Some(Problem::BadRequest),
        }
    }

    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = Pin::new(&mut self.stream).poll_write(context, &self.unsent);
            self.activity.taken(sent.is_ready());
            self.unsent.advance(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            self.activity.heard(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(context))?;
        if let Some(problem) = self.refusal(bytes) {
            self.activity.refuse();
            self.metrics.responded(problem.status());
            self.unsent = problem.bytes();
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.taken(written.is_ready());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP stream has nothing else to flush.
        self.poll_unsent(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
