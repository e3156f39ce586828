//! The steps of a worker.

use super::state::{Progress, RoundId, Row, State, Transaction, Worker};
use super::{Rounds, TICK, Variant};

impl Rounds {
    pub(super) fn step(&self, state: &mut State, worker: usize) {
        let last_round = self.last_round(state, worker);
        let clock = state.clock;
        let Worker {
            progress,
            transaction,
            remembered,
        } = &mut state.workers[worker];
        if *progress == Progress::Idle {
            // The broken variant checks the fence here, and does not begin.
            if self.variant != Variant::FenceBeforeLock || self.is_due(clock, last_round) {
                *progress = Progress::Begun;
                *transaction = Some(Transaction {
                    began: clock,
                    points_written: false,
                    row: None,
                });
            }
            return;
        }
        let Some(transaction) = transaction else {
            // The statement fails, because the server aborted the transaction: start over.
            *progress = Progress::Idle;
            return;
        };
        let began = transaction.began;
        let round = Some(RoundId { worker, began });
        match *progress {
            Progress::Begun if state.lock_holder.is_none() => {
                *progress = Progress::Locked;
                state.lock_holder = Some(worker);
            }
            Progress::Locked
                if self.variant == Variant::FenceBeforeLock || self.is_due(began, last_round) =>
            {
                *progress = Progress::Due;
            }
            Progress::Due => {
                transaction.points_written = true;
                *progress = Progress::Renewed;
                if self.variant == Variant::TwoCommits {
                    state.points = round;
                }
            }
            Progress::Renewed => {
                transaction.row = Some(Row {
                    tick: began / TICK,
                    started: began,
                    finished: clock.max(began),
                });
                *progress = Progress::Recorded;
                if self.variant == Variant::LockReleasedEarly {
                    state.lock_holder = None;
                }
            }
            // Another worker holds the lock, or no round is due.
            Progress::Idle | Progress::Begun | Progress::Locked => {
                *progress = Progress::Idle;
                state.end_transaction(worker);
            }
            // The commit.
            Progress::Recorded => {
                *progress = Progress::Idle;
                *remembered = transaction.row;
                // The new row is the fence. Those far ahead would only count later.
                let horizon = self.horizon(clock, Some(began));
                state.rows.retain(|row| row.finished <= horizon);
                state.rows.extend(transaction.row);
                state.ticks_done.extend(transaction.row.map(|row| row.tick));
                state.points = round;
                state.minimum = round;
                state.end_transaction(worker);
            }
        }
    }
}
