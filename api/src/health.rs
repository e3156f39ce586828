//! Whether this replica is ready for requests.

use std::sync::atomic::{AtomicBool, Ordering};

/// The state behind `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct Health {
    connected_once: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// Records that a database with the right schema has answered. That stays true when it is
    /// lost: an outage of the shared database must not take every replica out of its load balancer.
    pub(crate) fn set_connected_once(&self) {
        self.connected_once.store(true, Ordering::Relaxed);
    }

    /// Records that load balancers should send requests elsewhere from now on.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.connected_once.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }
}
