//! Log lines for the outcomes of rounds. A condition that lasts is logged once, not at each
//! attempt.

use shared::db::Error;
use shared::rounds::Outcome;
use tracing::{debug, error, info, warn};

/// Logs outcomes and errors, and remembers the condition that was logged last.
#[derive(Default)]
pub(crate) struct OutcomeLog {
    last_logged: Option<Condition>,
}

/// Why there was no round though one may be due.
#[derive(Debug, PartialEq, Eq)]
enum Condition {
    Busy,
    CoolingDown,
    OldSnapshot,
    /// With the error's text.
    Failed(String),
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
            // The normal outcome of a check. It is news only after another condition.
            Outcome::NotDue(_) => {
                if self.last_logged.take().is_some() {
                    info!(
                        event = "round_not_due",
                        "the round of the latest tick is done"
                    );
                }
            }
            Outcome::Busy => self.log_once(Condition::Busy, || {
                info!(event = "round_busy", "another worker holds the round lock");
            }),
            Outcome::CoolingDown => self.log_once(Condition::CoolingDown, || {
                info!(
                    event = "round_cooling_down",
                    "the last round was still running at the next tick, and its cooldown is not \
                     over"
                );
            }),
            Outcome::OldSnapshot => self.log_once(Condition::OldSnapshot, || {
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
        self.log_once(Condition::Failed(error.to_string()), || {
            if error.is_transient() {
                warn!(event = "round_failed", %error, "the attempt failed, retrying");
            } else {
                error!(event = "round_failed", %error, "the attempt failed, retrying");
            }
        });
    }

    /// Logs a condition, unless it was the last one to be logged.
    fn log_once(&mut self, condition: Condition, log: impl FnOnce()) {
        if self.last_logged.as_ref() == Some(&condition) {
            debug!(?condition, "no change since the last attempt");
        } else {
            log();
            self.last_logged = Some(condition);
        }
    }
}
