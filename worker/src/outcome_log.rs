//! Log lines for the outcomes of attempts. An outcome that lasts is logged once, not at each
//! attempt.

use shared::db::Error;
use shared::domain::rounds::Outcome;
use tracing::{debug, error, info, warn};

/// Logs outcomes and errors, and remembers why there was no round though one may be due.
#[derive(Default)]
pub(crate) struct OutcomeLog {
    /// The outcome or the error's text that was logged last. `None` after a round, and once the
    /// latest tick's is done.
    last_logged: Option<Result<Outcome, String>>,
}

impl OutcomeLog {
    pub(crate) fn log_outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done(round) => {
                self.last_logged = None;
                info!(
                    event = "round_done",
                    tick_at = %round.tick_at,
                    users_updated = round.users_updated,
                    duration_ms = (round.finished_at - round.started_at).num_milliseconds(),
                    "round done"
                );
            }
            // The normal outcome of a check. It is news only after another outcome.
            Outcome::NotDue(_) => {
                if self.last_logged.take().is_some() {
                    info!(
                        event = "round_not_due",
                        "the round of the latest tick is done"
                    );
                }
            }
            Outcome::Busy => self.log_once(Ok(*outcome), || {
                info!(event = "round_busy", "another worker holds the round lock");
            }),
            Outcome::CoolingDown => self.log_once(Ok(*outcome), || {
                info!(
                    event = "round_cooling_down",
                    "the last round was still running at the next tick, and its cooldown is not \
                     over"
                );
            }),
            Outcome::OldSnapshot => self.log_once(Ok(*outcome), || {
                info!(
                    event = "round_old_snapshot",
                    "a snapshot older than the last round is open: the round is tried \
                     again, because it could not prune and users would grow"
                );
            }),
        }
    }

    /// Logs an error: as a warning if it can pass by itself.
    pub(crate) fn log_error(&mut self, error: &Error) {
        self.log_once(Err(error.to_string()), || {
            if error.is_transient() {
                warn!(event = "round_failed", %error, "the attempt failed, retrying");
            } else {
                error!(event = "round_failed", %error, "the attempt failed, retrying");
            }
        });
    }

    /// Logs the result of an attempt, unless it is that of the last attempt that was logged.
    fn log_once(&mut self, result: Result<Outcome, String>, log: impl FnOnce()) {
        if self.last_logged.as_ref() == Some(&result) {
            debug!(?result, "no change since the last attempt");
        } else {
            log();
            self.last_logged = Some(result);
        }
    }
}
