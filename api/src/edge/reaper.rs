//! The reaper checks all connections of a listener at an interval, and wakes those whose time is up
//! or which are to be evicted. A connection closes itself.
//!
//! One timer serves all connections. A timer per connection would be polled twice with each of its
//! requests, each time with cache misses.

use std::convert::Infallible;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Limits;
use super::connection_state::{Action, ConnectionState};

/// How often all connections are checked, and so the precision of their timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// The connections that are watched, the oldest first. An entry outlives its connection until the
/// next sweep.
#[derive(Default)]
pub(super) struct Reaper(Mutex<Vec<Weak<ConnectionState>>>);

impl Reaper {
    /// Watches a connection for as long as its state lives.
    pub(super) fn watch(&self, connection: &Arc<ConnectionState>) {
        self.connections().push(Arc::downgrade(connection));
    }

    /// Sweeps for ever. `idle_to_evict` says how many idle connections should be closed.
    pub(super) async fn run(
        &self,
        limits: Limits,
        idle_to_evict: impl Fn() -> usize,
    ) -> Infallible {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            sweep.tick().await;
            let mut left_to_evict = idle_to_evict();
            // Swept without the lock: thousands take a while, and new connections must not wait for
            // it.
            let mut swept = take(&mut *self.connections());
            swept.retain(|connection| {
                let Some(connection) = connection.upgrade() else {
                    return false;
                };
                let limits = if left_to_evict > 0 {
                    limits.evicting_idle()
                } else {
                    limits
                };
                if connection.action(limits) != Action::Keep {
                    // A timeout frees a slot as well.
                    left_to_evict = left_to_evict.saturating_sub(1);
                    connection.wake(limits);
                }
                true
            });
            let mut connections = self.connections();
            swept.append(&mut connections);
            *connections = swept;
        }
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<ConnectionState>>> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
