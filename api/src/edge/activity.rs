//! What a connection is doing and since when, noted by its socket and its service, and what is to be done about it.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Limits;

/// How long a connection must have been idle to be ended when a stop, or others in line, need its place: one that is kept
/// busy gets to see `Connection: close` first.
const IDLE_IN_NEED: Duration = Duration::from_secs(1);

/// Shared by the parts of one connection, which take turns, and the lookout, which does not.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    doing: Doing,
    since: Instant,
    /// Since when the client has not taken what we write.
    unread_since: Option<Instant>,
    /// The last bytes that came, in the order in which they came: they end a head, or one has begun.
    tail: [u8; 3],
    /// Whether the client was refused in a way that ends the connection.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing has come since it was accepted.
    Silent,
    /// A head is coming in; whether its first line is complete.
    Head { line: bool },
    /// A request is being answered.
    Serving,
    /// Between two requests.
    Idle,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may go on.
    Fine,
    /// It ends; nobody is waiting for an answer.
    End,
    /// Its request takes too long to arrive.
    Slow,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            doing: Doing::Silent,
            since: Instant::now(),
            unread_since: None,
            tail: [0; 3],
            refused: false,
        }))
    }

    /// These bytes came.
    pub(super) fn heard(&self, bytes: &[u8]) {
        let mut state = self.state();
        let line = bytes.contains(&b'\n');
        for &byte in &bytes[bytes.len().saturating_sub(3)..] {
            let [_, second, third] = state.tail;
            state.tail = [second, third, byte];
        }
        match state.doing {
            // The time of a first head counts from accept.
            Doing::Silent => state.doing = Doing::Head { line },
            Doing::Idle => {
                state.doing = Doing::Head { line };
                state.since = Instant::now();
            }
            Doing::Head { line: false } if line => state.doing = Doing::Head { line },
            Doing::Head { .. } | Doing::Serving => {}
        }
    }

    /// A head is complete.
    pub(super) fn serving(&self) {
        self.state().doing = Doing::Serving;
    }

    /// An answer is on its way.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        // Behind a head that was read together with the end of the one before, more may have begun.
        let between = matches!(state.tail, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n']);
        state.doing = if between {
            Doing::Idle
        } else {
            Doing::Head { line: true }
        };
        state.since = Instant::now();
    }

    /// Whether the client takes what is written.
    pub(super) fn taken(&self, taken: bool) {
        let mut state = self.state();
        state.unread_since = (!taken).then(|| state.unread_since.unwrap_or_else(Instant::now));
    }

    /// The client was told that it is refused, and the connection will end.
    pub(super) fn refuse(&self) {
        self.state().refused = true;
    }

    pub(super) fn is_refused(&self) -> bool {
        self.state().refused
    }

    /// Whether the head that is coming in has not even got a complete first line.
    pub(super) fn is_in_first_line(&self) -> bool {
        matches!(self.state().doing, Doing::Head { line: false })
    }

    /// `in_need`: whether connections that do nothing should go.
    pub(super) fn verdict(&self, limits: Limits, in_need: bool) -> Verdict {
        let state = self.state();
        let time = state.since.elapsed();
        if state
            .unread_since
            .is_some_and(|since| since.elapsed() > limits.write)
        {
            return Verdict::End;
        }
        match state.doing {
            Doing::Silent if time > limits.header => Verdict::End,
            Doing::Head { .. } if time > limits.header => Verdict::Slow,
            Doing::Idle if time > limits.idle => Verdict::End,
            Doing::Idle if in_need && time > IDLE_IN_NEED => Verdict::End,
            _ => Verdict::Fine,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
