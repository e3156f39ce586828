//! What a connection is doing and since when, noted by its socket and its service, judged by its watch.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::{Limits, Phase};

/// How long a connection must have been idle for a stop to end it: a client that keeps one busy gets to see
/// `Connection: close` first.
const IDLE_WHILE_CLOSING: Duration = Duration::from_secs(1);

/// Shared by the parts of one connection, which take turns.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    doing: Doing,
    since: Instant,
    /// Since when the client has not taken what we write.
    unread_since: Option<Instant>,
    /// Whether it was told that it is refused, and why the connection ends.
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
            refused: false,
        }))
    }

    /// These bytes came.
    pub(super) fn heard(&self, bytes: &[u8]) {
        let mut state = self.state();
        let line = bytes.contains(&b'\n');
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
        state.doing = Doing::Idle;
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

    pub(super) fn verdict(&self, limits: Limits, phase: Phase) -> Verdict {
        let state = self.state();
        let time = state.since.elapsed();
        if state
            .unread_since
            .is_some_and(|since| since.elapsed() > limits.write)
        {
            return Verdict::End;
        }
        match state.doing {
            _ if phase == Phase::Over => Verdict::End,
            Doing::Silent if time > limits.header => Verdict::End,
            Doing::Head { .. } if time > limits.header => Verdict::Slow,
            Doing::Idle if time > limits.idle => Verdict::End,
            Doing::Idle if phase == Phase::Closing && time > IDLE_WHILE_CLOSING => Verdict::End,
            _ => Verdict::Fine,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
