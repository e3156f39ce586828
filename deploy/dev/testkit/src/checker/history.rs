//! What clients saw, in the order of one clock: and what of it can't be true.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use serde_json::Value;

/// An answer with status 200.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Just before the request was sent.
    pub asked_at: Instant,
    /// Just after the answer was read.
    pub answered_at: Instant,
    /// The body's `users`.
    pub users: Value,
    /// The body's `timestamp`.
    pub timestamp: Option<String>,
}

/// What the database's audit knows, for comparison.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The users of each round, in the order of the rounds. Before the first there were none.
    pub(super) choices: Vec<Value>,
    /// The seconds in which queries were answered, as an answer shows them.
    pub(super) seconds: HashSet<String>,
}

/// The answers that contradict what is known, or each other, in words.
pub(super) fn contradictions(observations: &[Observation], known: &Known) -> Vec<String> {
    let mut complaints = Vec::new();
    let first_ever = observations
        .iter()
        .filter(|observation| observation.timestamp.is_none());
    if first_ever.count() > 1 {
        complaints.push("two queries were the very first".to_owned());
    }
    // The numbers of the first and the last round that chose these users.
    let mut rounds = HashMap::from([("[]".to_owned(), (0, 0))]);
    for (number, users) in (1..).zip(&known.choices) {
        rounds
            .entry(users.to_string())
            .and_modify(|(_, last)| *last = number)
            .or_insert((number, number));
    }
    let mut asked: Vec<_> = observations.iter().collect();
    asked.sort_by_key(|observation| observation.asked_at);
    let mut answered = asked.clone();
    answered.sort_by_key(|observation| observation.answered_at);
    let mut answered = answered.into_iter().peekable();
    // The latest of all that was answered before the one in hand was asked.
    let (mut timestamp, mut round) = (&None, 0);
    for observation in asked {
        while let Some(before) =
            answered.next_if(|before| before.answered_at < observation.asked_at)
        {
            timestamp = timestamp.max(&before.timestamp);
            if let Some((first, _)) = rounds.get(&before.users.to_string()) {
                round = round.max(*first);
            }
        }
        if &observation.timestamp < timestamp {
            complaints.push(format!("time went back to {:?}", observation.timestamp));
        }
        if let Some(second) = &observation.timestamp
            && !known.seconds.contains(second)
        {
            complaints.push(format!("no query was answered at {second}"));
        }
        match rounds.get(&observation.users.to_string()) {
            None => complaints.push(format!("no round chose {}", observation.users)),
            Some((_, last)) if *last < round => {
                complaints.push(format!("an older round's {} came back", observation.users));
            }
            Some(_) => {}
        }
    }
    complaints
}
