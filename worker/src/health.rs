//! Whether this worker is ready.

use std::sync::atomic::{AtomicBool, Ordering};

/// The state behind `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct Health {
    had_outcome: AtomicBool,
}

impl Health {
    /// Records that an attempt has had an outcome, so the database has answered. That stays true
    /// during an outage. Only a completed round shows that the worker's privileges suffice.
    pub(crate) fn set_had_outcome(&self) {
        self.had_outcome.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.had_outcome.load(Ordering::Relaxed)
    }
}
