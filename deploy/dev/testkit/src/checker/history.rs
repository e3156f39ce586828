//! Compares the answers that clients got with each other and with the audit, by the clients' clock.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use serde_json::Value;

/// An answer with status 200.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// Just after the response was read.
    pub received_at: Instant,
    /// The body's `users`.
    pub users: Value,
    /// The body's `timestamp`.
    pub timestamp: Option<String>,
}

/// What the database's audit recorded.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// The chosen users of each round, in the order of the rounds. Before the first there are none.
    pub(super) choices: Vec<Value>,
    /// The seconds in which queries were answered, in the format of an answer.
    pub(super) seconds: HashSet<String>,
}

/// Describes each answer that contradicts the audit or an earlier answer.
pub(super) fn contradictions(observations: &[Observation], audit: &Audit) -> Vec<String> {
    let mut contradictions = Vec::new();
    let without_timestamp = observations
        .iter()
        .filter(|observation| observation.timestamp.is_none());
    if without_timestamp.count() > 1 {
        contradictions.push("two answers are the very first".to_owned());
    }
    let rounds = rounds_by_users(&audit.choices);
    let mut by_sending: Vec<_> = observations.iter().collect();
    by_sending.sort_by_key(|observation| observation.sent_at);
    let mut by_receipt = by_sending.clone();
    by_receipt.sort_by_key(|observation| observation.received_at);
    let mut by_receipt = by_receipt.into_iter().peekable();
    // The latest timestamp and round among the answers received before this request was sent.
    let (mut timestamp, mut round) = (&None, 0);
    for observation in by_sending {
        while let Some(earlier) =
            by_receipt.next_if(|earlier| earlier.received_at < observation.sent_at)
        {
            timestamp = timestamp.max(&earlier.timestamp);
            if let Some((first, _)) = rounds.get(&earlier.users.to_string()) {
                round = round.max(*first);
            }
        }
        if &observation.timestamp < timestamp {
            contradictions.push(format!("time went back to {:?}", observation.timestamp));
        }
        if let Some(second) = &observation.timestamp
            && !audit.seconds.contains(second)
        {
            contradictions.push(format!("no query was answered at {second}"));
        }
        match rounds.get(&observation.users.to_string()) {
            None => contradictions.push(format!("no round chose {}", observation.users)),
            Some((_, last)) if *last < round => contradictions.push(format!(
                "users of an older round came back: {}",
                observation.users
            )),
            Some(_) => {}
        }
    }
    contradictions
}

/// The numbers of the first and the last round that chose each pair of users. Round 0 is the time
/// before the first.
fn rounds_by_users(choices: &[Value]) -> HashMap<String, (usize, usize)> {
    let mut rounds = HashMap::from([("[]".to_owned(), (0, 0))]);
    for (number, users) in (1..).zip(choices) {
        rounds
            .entry(users.to_string())
            .and_modify(|(_, last)| *last = number)
            .or_insert((number, number));
    }
    rounds
}
