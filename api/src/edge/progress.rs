//! Tracks what a connection waits for and since when, and decides when it has timed out.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// Maximum time between two checks of a connection, and so the maximum delay of its close.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A request: the first one, or one that has begun to arrive.
    Receiving,
    /// Its response.
    Answering,
    /// The next request.
    Idle,
}

/// The stage of a connection, and since when.
pub(super) struct Progress(Mutex<(Stage, Instant)>);

impl Progress {
    /// The progress of a new connection.
    pub(super) fn new() -> Self {
        Self(Mutex::new((Stage::Receiving, Instant::now())))
    }

    pub(super) fn set(&self, stage: Stage) {
        *self.lock() = (stage, Instant::now());
    }

    /// Bytes have arrived: an idle connection receives a request now. If a request's first bytes
    /// came in the same read as the end of the one before, the connection counts as idle until more
    /// arrive.
    pub(super) fn on_read(&self) {
        let mut progress = self.lock();
        if progress.0 == Stage::Idle {
            *progress = (Stage::Receiving, Instant::now());
        }
    }

    /// When to check the connection again; `None` if its time is up.
    pub(super) fn next_check(
        &self,
        header_timeout: Duration,
        idle_timeout: Duration,
    ) -> Option<Instant> {
        let (stage, since) = *self.lock();
        let now = Instant::now();
        let timeout = match stage {
            Stage::Receiving => header_timeout,
            // The coalescer bounds this time.
            Stage::Answering => return Some(now + CHECK_INTERVAL),
            Stage::Idle => idle_timeout,
        };
        let deadline = since + timeout;
        (now < deadline).then(|| deadline.min(now + CHECK_INTERVAL))
    }

    fn lock(&self) -> MutexGuard<'_, (Stage, Instant)> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
