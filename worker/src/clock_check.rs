//! Notices a database clock that was ahead before, or is behind now: recorded times lie in the
//! future. It only reports; what such times may do is limited in `shared`.

use std::sync::Arc;
use std::time::Duration;

use shared::db::{Error, Session, with_timeout};
use shared::domain::clock::{CLOCK_TOLERANCE, TimeAhead, read_time_ahead};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// How long the check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// How far ahead a time is worth a log line. Clocks that are being set differ by less.
const MIN_SECONDS_AHEAD: f64 = 1.0;

/// Checks the clock, and logs each change once.
pub(crate) struct ClockCheck {
    metrics: Arc<Metrics>,
    is_ahead: bool,
    has_failed: bool,
}

impl ClockCheck {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            is_ahead: false,
            has_failed: false,
        }
    }

    /// Reads how far times lie ahead, publishes and logs it.
    ///
    /// # Errors
    /// When the connection breaks or the database does not answer. Drop the session.
    pub(crate) async fn check(&mut self, session: &mut Session) -> Result<(), Error> {
        match with_timeout(CHECK_TIMEOUT, read_time_ahead(session)).await {
            Ok(ahead) => {
                self.has_failed = false;
                self.metrics.record_time_ahead(&ahead);
                self.log(&ahead);
                Ok(())
            }
            Err(error) if error.is_transient() => Err(error),
            // It must not stop rounds, for instance if the grants are those of the release before.
            Err(error) => {
                if !self.has_failed {
                    warn!(
                        event = "clock_check_failed",
                        %error,
                        "cannot check whether times are ahead of the database's clock"
                    );
                }
                self.has_failed = true;
                Ok(())
            }
        }
    }

    fn log(&mut self, ahead: &TimeAhead) {
        let was_ahead = self.is_ahead;
        self.is_ahead = ahead.rounds_seconds.max(ahead.last_query_seconds) > MIN_SECONDS_AHEAD;
        match (was_ahead, self.is_ahead) {
            (false, true) => warn!(
                event = "clock_was_ahead",
                rounds_ahead_seconds = ahead.rounds_seconds,
                last_query_ahead_seconds = ahead.last_query_seconds,
                "the database's clock was ahead, or is behind now: rounds wait {} s at most, and \
                 answers repeat the last query's time until the clock has passed it",
                CLOCK_TOLERANCE.num_seconds()
            ),
            (true, false) => info!(
                event = "clock_has_caught_up",
                "no recorded time is ahead of the database's clock any more"
            ),
            _ => {}
        }
    }
}
