//! Records heartbeats and the first outcome, for `/livez` and `/readyz`. It does not say whether
//! rounds are on time: that is the lag in the metrics.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long the loop or the scheduler may go without a heartbeat before `/livez` fails.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(30);

/// The health of the worker. Its times are of the monotonic clock, which is never set.
pub(crate) struct Health(Mutex<State>);

struct State {
    loop_heartbeat_at: Instant,
    scheduler_heartbeat_at: Instant,
    had_outcome: bool,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            loop_heartbeat_at: Instant::now(),
            scheduler_heartbeat_at: Instant::now(),
            had_outcome: false,
        }))
    }

    /// Records that the loop runs.
    pub(crate) fn record_loop_heartbeat(&self) {
        self.state().loop_heartbeat_at = Instant::now();
    }

    /// Records that the scheduler runs.
    pub(crate) fn record_scheduler_heartbeat(&self) {
        self.state().scheduler_heartbeat_at = Instant::now();
    }

    /// Records that an attempt has had an outcome.
    pub(crate) fn record_outcome(&self) {
        self.state().had_outcome = true;
    }

    /// The result of `/livez`: both the loop and the scheduler had a heartbeat lately.
    ///
    /// # Errors
    /// Which of them has stopped.
    pub(crate) fn check_liveness(&self) -> Result<(), &'static str> {
        let state = self.state();
        if state.loop_heartbeat_at.elapsed() > HEARTBEAT_TIMEOUT {
            Err("the round loop is stuck")
        } else if state.scheduler_heartbeat_at.elapsed() > HEARTBEAT_TIMEOUT {
            Err("the scheduler has stopped")
        } else {
            Ok(())
        }
    }

    /// The result of `/readyz`: an attempt has had an outcome, so the database answers. Only a
    /// round that is done shows that the worker has the privileges for one.
    ///
    /// # Errors
    /// When no attempt has had one.
    pub(crate) fn check_readiness(&self) -> Result<(), &'static str> {
        if self.state().had_outcome {
            Ok(())
        } else {
            Err("no attempt has had an outcome yet")
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
