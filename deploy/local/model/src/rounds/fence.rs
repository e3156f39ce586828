//! Fence and cooldown: whether a round is due.

use super::state::{Row, State};
use super::{COOLDOWN, FAR_AHEAD, Rounds, TICK, TOLERANCE, Variant};

impl Rounds {
    /// Whether a transaction that began at this time must do a round.
    pub(super) fn is_due(&self, began: i8, last: Option<Row>) -> bool {
        let Some(last) = last else { return true };
        let is_done = self.variant != Variant::NoFence && last.tick >= began / TICK;
        let cooling_down = match self.variant {
            Variant::CooldownFarAhead => overran(last) && began - last.finished < COOLDOWN,
            _ => is_cooling_down(last, began),
        };
        !is_done && !cooling_down
    }

    /// The latest time that counts, for a transaction that began at this time.
    pub(super) fn horizon(&self, clock: i8, began: Option<i8>) -> i8 {
        match self.variant {
            Variant::FenceFarAhead => clock + FAR_AHEAD,
            Variant::NoTolerance => clock,
            Variant::AheadOfBegin => began.unwrap_or(clock) + TOLERANCE,
            _ => clock + TOLERANCE,
        }
    }

    /// The last round, as this worker sees it now.
    pub(super) fn last_round(&self, state: &State, worker: usize) -> Option<Row> {
        let own = &state.workers[worker];
        let horizon = self.horizon(state.clock, own.transaction.map(|open| open.began));
        let counted = (state.rows.iter()).filter(|row| row.tick * TICK <= horizon);
        let committed = counted.copied().max_by_key(|row| row.tick);
        match self.variant {
            Variant::FenceInMemory => own.remembered,
            // The tick comes from the table, the end from the worker's memory.
            Variant::CooldownInMemory => committed.map(|row| Row {
                finished: (own.remembered).map_or(row.tick * TICK, |last| last.finished),
                ..row
            }),
            _ => committed,
        }
    }
}

/// Whether it was still running at the next tick.
pub(super) fn overran(row: Row) -> bool {
    row.finished / TICK > row.tick
}

pub(super) fn is_cooling_down(last: Row, began: i8) -> bool {
    overran(last) && (-TOLERANCE..COOLDOWN).contains(&(began - last.finished))
}

/// Whether something holds a round back that is no further ahead than clocks differ: a round for
/// the tick that is due or for a later one, or a cooldown.
pub(super) fn is_held_back(state: &State) -> bool {
    let horizon = state.clock + TOLERANCE;
    state.rows.iter().any(|&row| {
        let is_fence = row.tick >= state.clock / TICK && row.tick * TICK <= horizon;
        is_fence || row.finished <= horizon && is_cooling_down(row, state.clock)
    })
}
