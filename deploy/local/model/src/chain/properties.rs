//! What must hold in every state, and what some state must show.

use stateright::Property;

use super::state::{Request, State};
use super::{Chain, REQUESTS};

pub(super) fn all() -> Vec<Property<Chain>> {
    vec![
        Property::always(
            "an answer has the time of the query right before it",
            |_, state: &State| {
                (0..REQUESTS).all(|request| match state.requests[request] {
                    Request::Answered { timestamp, .. } => {
                        state.position(request).is_some_and(|position| {
                            let before = position.checked_sub(1);
                            timestamp == before.map(|before| state.chain[before].1)
                        })
                    }
                    _ => true,
                })
            },
        ),
        Property::always("time never goes back", |_, state: &State| {
            state.chain.is_sorted_by_key(|&(_, queried)| queried)
        }),
        Property::always(
            "an answer that arrived before a request was sent precedes it in the chain",
            |_, state: &State| {
                (0..REQUESTS).all(|request| match state.position(request) {
                    Some(own) => (state.answered_before[request].iter())
                        .all(|&earlier| state.position(earlier).is_some_and(|other| other < own)),
                    None => true,
                })
            },
        ),
        Property::always(
            "no answer shows users of a round that an answer before it had left behind",
            |_, state: &State| state.answered_rounds().is_sorted(),
        ),
        Property::always("no crash loses an answered query", |_, state: &State| {
            (0..REQUESTS).all(|request| {
                !state.requests[request].is_answered() || state.position(request).is_some()
            })
        }),
        Property::sometimes("all requests are answered", |_, state: &State| {
            state.requests.iter().all(|request| request.is_answered())
        }),
        Property::sometimes(
            "a round comes between two answers of the chain",
            |_, state: &State| {
                let mut rounds = state.answered_rounds();
                rounds
                    .next()
                    .is_some_and(|first| rounds.any(|round| round > first))
            },
        ),
        Property::sometimes("a crash loses a visible move", |_, state: &State| {
            state.has_crashed
                && state.requests.iter().any(|request| request.is_answered())
                && (0..REQUESTS).any(|request| {
                    state.requests[request] == Request::Unavailable
                        && state.position(request).is_none()
                })
        }),
        Property::sometimes(
            "requests whose move is committed get 503",
            |_, state: &State| {
                (state.chain.iter())
                    .any(|&(request, _)| state.requests[request] == Request::Unavailable)
            },
        ),
    ]
}
