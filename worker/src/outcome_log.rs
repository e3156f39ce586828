//! Log lines for the outcomes of attempts. An outcome that lasts is logged once, not at each
//! attempt.

use std::mem;

use shared::db::Error;
use shared::domain::rounds::Outcome;
use shared::program::logs::LastReason;
use tracing::{error, info, warn};

/// Logs outcomes and errors.
#[derive(Default)]
pub(crate) struct OutcomeLog {
    /// Why there was no round though one may be due.
    last_reason: LastReason,
    /// The last round had a `clock_ahead_by`.
    was_clock_ahead: bool,
    /// The last outcome was [`Outcome::Busy`].
    was_busy: bool,
}

impl OutcomeLog {
    pub(crate) fn log_outcome(&mut self, outcome: &Outcome) {
        let was_busy = mem::replace(&mut self.was_busy, *outcome == Outcome::Busy);
        match outcome {
            Outcome::Done(round) => {
                self.last_reason.clear();
                if let Some(ahead) = round.clock_ahead_by
                    && !self.was_clock_ahead
                {
                    warn!(
                        event = "clock_was_ahead",
                        ahead_seconds = ahead.as_seconds_f64(),
                        "the database's clock was ahead, or is behind now: rounds with later times \
                         are deleted, and answers repeat the last query's time until the clock has \
                         passed that time"
                    );
                }
                self.was_clock_ahead = round.clock_ahead_by.is_some();
                if round.users_updated == 0 {
                    warn!(
                        event = "round_without_users",
                        "the round has updated no user: there is none, or a trigger on users skips \
                         all updates"
                    );
                }
                info!(
                    event = "round_done",
                    tick_at = %round.tick_at,
                    users_updated = round.users_updated,
                    duration_ms = (round.finished_at - round.started_at).num_milliseconds(),
                    "round done"
                );
            }
            // The usual outcome. It is logged only if a reason for no round was logged before.
            Outcome::NotDue(_) => {
                if self.last_reason.clear() {
                    info!(
                        event = "round_not_due",
                        "no round is due: the latest tick's is done, or there was no tick yet"
                    );
                }
            }
            // At each tick all workers but one find the lock held: only a repetition is news.
            Outcome::Busy if !was_busy => {}
            Outcome::Busy => self.log_no_round("round_busy", "another worker holds the round lock"),
            Outcome::CoolingDown => self.log_no_round(
                "round_cooling_down",
                "the last round was still running at the next tick, and its cooldown is not over",
            ),
        }
    }

    /// Logs an error: as a warning if it can pass by itself.
    pub(crate) fn log_error(&mut self, error: &Error) {
        if !self.last_reason.replace(error.to_string()) {
            return;
        }
        if error.is_transient() {
            warn!(event = "round_failed", %error, "the attempt failed, retrying");
        } else {
            error!(event = "round_failed", %error, "the attempt failed, retrying");
        }
    }

    fn log_no_round(&mut self, event: &str, reason: &str) {
        if self.last_reason.replace(reason.to_owned()) {
            info!(event, "{reason}");
        }
    }
}
