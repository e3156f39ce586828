//! What must hold in every state, and what some state must show.

use stateright::Property;

use super::fence::{is_cooling_down, is_held_back, overran};
use super::state::State;
use super::{LAST_MOMENT, Rounds};

pub(super) fn all() -> Vec<Property<Rounds>> {
    vec![
        Property::always("each tick is done once", |_, state: &State| {
            let mut ticks = state.ticks_done.clone();
            ticks.sort_unstable();
            ticks.windows(2).all(|pair| pair[0] != pair[1])
        }),
        Property::always(
            "points and minimum come from one round",
            |_, state: &State| state.points == state.minimum,
        ),
        Property::always(
            "a round that was still running at the next tick is followed by a cooldown",
            |_, state: &State| {
                (state.rows.windows(2)).all(|pair| !is_cooling_down(pair[0], pair[1].started))
            },
        ),
        Property::always(
            "a time far ahead of the clock does not stop rounds",
            |model: &Rounds, state: &State| {
                is_held_back(state) || model.is_due(state.clock, model.last_round(state, 0))
            },
        ),
        Property::sometimes("every tick is done", |_, state: &State| {
            state.rows.len() == 3
        }),
        Property::sometimes("missed ticks become one round", |_, state: &State| {
            state.rows.first().is_some_and(|row| row.tick == 2)
        }),
        Property::sometimes("a cooldown skips a tick", |_, state: &State| {
            state.clock == LAST_MOMENT
                && (state.rows.first())
                    .is_some_and(|&row| overran(row) && row.finished <= LAST_MOMENT)
        }),
    ]
}
