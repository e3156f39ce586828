//! Whether this replica wants requests.

use std::sync::atomic::{AtomicBool, Ordering};

/// What the probes answer.
#[derive(Debug, Default)]
pub(crate) struct Health {
    reached: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// A database with the right schema was reached. That stays so when it is lost: an outage of the database that all
    /// share must not take every replica out of its load balancer.
    pub(crate) fn reached_database(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// From here on load balancers should look elsewhere.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.reached.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }
}
