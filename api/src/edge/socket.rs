//! A connection's socket. It reports reads and writes to the connection's state, and replaces the
//! errors that hyper writes by itself with problems of ours.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::CountResponse;
use super::connection_state::ConnectionState;
use crate::problem::Problem;

/// A TCP stream that reports what happens.
pub(super) struct Socket {
    stream: TcpStream,
    state: Arc<ConnectionState>,
    count_response: CountResponse,
    /// What is still to be sent of a problem: one that replaces an error of hyper's, or a 408.
    unsent: Bytes,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        state: Arc<ConnectionState>,
        count_response: CountResponse,
    ) -> Self {
        Self {
            stream,
            state,
            count_response,
            unsent: Bytes::new(),
        }
    }

    /// Sends a problem with the next write or flush, and ends the connection.
    pub(super) fn reject(&mut self, problem: Problem) {
        self.state.mark_rejected();
        (self.count_response)(problem.status());
        self.unsent = problem.bytes();
    }

    /// The problem to send in place of what hyper wrote for a request that it can't parse: a status
    /// 4xx without a body, and so without a `Content-Type`.
    fn problem_for(&self, written: &[u8]) -> Option<Problem> {
        let status = written
            .strip_prefix(b"HTTP/1.1 ")
            .or(written.strip_prefix(b"HTTP/1.0 "))?
            .get(..3)?;
        if !status.starts_with(b"4") || contains(written, b"content-type:") {
            return None;
        }
        match status {
            b"414" => Some(Problem::UriTooLong),
            b"431" if self.state.is_in_request_line() => Some(Problem::UriTooLong),
            b"431" => Some(Problem::HeadersTooLarge),
            _ => Some(Problem::BadRequest),
        }
    }

    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = Pin::new(&mut self.stream).poll_write(context, &self.unsent);
            self.state.on_write(sent.is_ready());
            self.unsent.advance(ready!(sent)?);
        }
        Poll::Ready(Ok(()))
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
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
            self.state.on_read(bytes);
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
        if let Some(problem) = self.problem_for(bytes) {
            self.reject(problem);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.state.on_write(written.is_ready());
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
