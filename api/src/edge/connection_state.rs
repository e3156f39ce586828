//! What a connection waits for and since when, as its socket and its service report it, and what is
//! to be done about it.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;

use super::Limits;

/// Shared by a connection's socket and service, which run in its task, and the reaper, which runs
/// in another.
pub(super) struct ConnectionState {
    inner: Mutex<Inner>,
    wake: Notify,
}

/// What the lock guards.
struct Inner {
    stage: Stage,
    since: Instant,
    /// Since when the client has not read what we write.
    unread_since: Option<Instant>,
    /// The last three bytes read. Unless they end a head, part of the next head has arrived.
    tail: [u8; 3],
    /// Whether the client got a problem that ends the connection.
    rejected: bool,
    /// The limits that the last [`ConnectionState::wake`] set.
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was read since the connection was accepted.
    Accepted,
    /// A request is being received: its head, or content that is read before it is answered.
    Receiving { request_line_complete: bool },
    /// A request is being answered.
    Answering,
    /// Between two requests.
    Idle,
    /// The connection's task has decided to close it.
    Ended,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It may go on.
    Keep,
    /// Close it: its client does not wait for a response.
    Close,
    /// Close it with 408: its request takes too long to arrive.
    Timeout,
}

impl ConnectionState {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            inner: Mutex::new(Inner {
                stage: Stage::Accepted,
                since: Instant::now(),
                unread_since: None,
                tail: [0; 3],
                rejected: false,
                limits,
            }),
            wake: Notify::new(),
        }
    }

    /// These bytes were read.
    pub(super) fn on_read(&self, bytes: &[u8]) {
        let mut state = self.lock();
        for &byte in &bytes[bytes.len().saturating_sub(3)..] {
            let [_, second, third] = state.tail;
            state.tail = [second, third, byte];
        }
        let Inner { stage, since, .. } = &mut *state;
        match stage {
            Stage::Accepted | Stage::Idle => {
                // Empty lines before a request are not part of it (RFC 9112, 2.2).
                let Some(begin) = bytes.iter().position(|byte| !b"\r\n".contains(byte)) else {
                    return;
                };
                // The time of the first head counts from accept.
                if *stage == Stage::Idle {
                    *since = Instant::now();
                }
                *stage = Stage::Receiving {
                    request_line_complete: bytes[begin..].contains(&b'\n'),
                };
            }
            Stage::Receiving {
                request_line_complete,
            } => *request_line_complete |= bytes.contains(&b'\n'),
            Stage::Answering | Stage::Ended => {}
        }
    }

    /// The socket was given bytes to send. `ready` is false while the client does not read and the
    /// buffers are full.
    pub(super) fn on_write(&self, ready: bool) {
        let mut state = self.lock();
        if ready && state.unread_since.take().is_some() {
            // The time that it took to read a response does not count for the next request.
            state.since = Instant::now();
        } else if !ready {
            state.unread_since.get_or_insert_with(Instant::now);
        }
    }

    /// A head is complete, but its body must be read before the request can be answered. The header
    /// timeout includes the time for that.
    pub(super) fn on_body_awaited(&self) {
        let mut state = self.lock();
        // The head was read together with the end of the request before, so `on_read` did not see
        // it begin.
        if state.stage == Stage::Idle {
            state.since = Instant::now();
        }
        state.stage = Stage::Receiving {
            request_line_complete: true,
        };
    }

    /// A request is being answered. From here on the header timeout does not apply.
    pub(super) fn on_answering(&self) {
        self.lock().stage = Stage::Answering;
    }

    /// The response to a request is about to be written.
    pub(super) fn on_response(&self) {
        let mut state = self.lock();
        // The next head may have begun in the bytes that were read with the end of the last one.
        let between_requests = matches!(state.tail, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n']);
        state.stage = if between_requests {
            Stage::Idle
        } else {
            Stage::Receiving {
                // Unknown here. It decides only between 414 and 431.
                request_line_complete: true,
            }
        };
        state.since = Instant::now();
    }

    /// The connection is about to be closed; nothing else is to be done about it.
    pub(super) fn on_close(&self) {
        self.lock().stage = Stage::Ended;
    }

    /// The client has been told of a problem that ends the connection.
    pub(super) fn mark_rejected(&self) {
        self.lock().rejected = true;
    }

    pub(super) fn is_rejected(&self) -> bool {
        self.lock().rejected
    }

    /// Whether a head is arriving whose request line is not complete yet.
    pub(super) fn is_in_request_line(&self) -> bool {
        let in_request_line = Stage::Receiving {
            request_line_complete: false,
        };
        self.lock().stage == in_request_line
    }

    /// What is to be done now under these limits.
    pub(super) fn action(&self, limits: Limits) -> Action {
        let state = self.lock();
        let elapsed = state.since.elapsed();
        if state.stage == Stage::Ended {
            return Action::Keep;
        }
        // While a response is being written, no other may be: its bytes would end up inside.
        if let Some(since) = state.unread_since {
            return if since.elapsed() > limits.write_timeout {
                Action::Close
            } else {
                Action::Keep
            };
        }
        match state.stage {
            Stage::Accepted if elapsed > limits.header_timeout => Action::Close,
            Stage::Receiving { .. } if elapsed > limits.header_timeout => Action::Timeout,
            Stage::Idle if elapsed > limits.idle_timeout => Action::Close,
            _ => Action::Keep,
        }
    }

    /// Makes the connection's own task apply these limits.
    pub(super) fn wake(&self, limits: Limits) {
        self.lock().limits = limits;
        self.wake.notify_one();
    }

    /// Waits for [`Self::wake`], and returns what is to be done. The connection may have gone on
    /// since the reaper checked it, so this checks again. Cancel safe.
    pub(super) async fn woken(&self) -> Action {
        self.wake.notified().await;
        let limits = self.lock().limits;
        self.action(limits)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
