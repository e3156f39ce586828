//! Compares the answers that clients got with each other and with the audit, by the clients' clock.

use std::collections::HashMap;
use std::ops::RangeInclusive;
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
    /// The moves of the chain, in their order.
    pub(super) queries: Vec<Query>,
}

/// A move of the chain. Its times are in the format of an answer.
#[derive(Debug)]
pub(super) struct Query {
    /// What the first answer of its batch shows.
    pub(super) previous: Option<String>,
    /// What the other answers of its batch show.
    pub(super) queried: String,
    /// How many rounds had been committed when the chain moved.
    pub(super) round: usize,
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
    let rounds_at_place = rounds_by_timestamp(audit);
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
            if let Some(rounds) = rounds.get(&earlier.users.to_string()) {
                round = round.max(rounds[0]);
            }
        }
        if &observation.timestamp < timestamp {
            contradictions.push(format!("time went back to {:?}", observation.timestamp));
        }
        let at_place = rounds_at_place.get(&observation.timestamp);
        if at_place.is_none() {
            contradictions.push(match &observation.timestamp {
                Some(second) => format!("no query was answered at {second}"),
                None => "no query was the very first".to_owned(),
            });
        }
        let Some(rounds) = rounds.get(&observation.users.to_string()) else {
            contradictions.push(format!("no round chose {}", observation.users));
            continue;
        };
        if rounds.iter().all(|&number| number < round) {
            contradictions.push(format!(
                "users of an older round came back: {}",
                observation.users
            ));
        }
        if let Some(at_place) = at_place
            && !rounds.iter().any(|number| at_place.contains(number))
        {
            contradictions.push(format!(
                "after {:?}, users of round {rounds:?} instead of {at_place:?}: {}",
                observation.timestamp, observation.users
            ));
        }
    }
    contradictions
}

/// The numbers of the rounds that chose each pair of users, in ascending order. Round 0 is the time
/// before the first.
fn rounds_by_users(choices: &[Value]) -> HashMap<String, Vec<usize>> {
    let mut rounds = HashMap::from([("[]".to_owned(), vec![0])]);
    for (number, users) in (1..).zip(choices) {
        rounds.entry(users.to_string()).or_default().push(number);
    }
    rounds
}

/// The rounds whose users an answer with each timestamp may show: those at its place in the chain.
/// A timestamp belongs to two places: the others of a batch, and the first of the next batch.
fn rounds_by_timestamp(audit: &Audit) -> HashMap<Option<String>, RangeInclusive<usize>> {
    let mut rounds = HashMap::<_, RangeInclusive<usize>>::new();
    for (index, query) in audit.queries.iter().enumerate() {
        let next = audit.queries.get(index + 1);
        let last = next.map_or(audit.choices.len(), |next| next.round);
        for timestamp in [query.previous.clone(), Some(query.queried.clone())] {
            rounds
                .entry(timestamp)
                .and_modify(|range| {
                    *range = query.round.min(*range.start())..=last.max(*range.end());
                })
                .or_insert(query.round..=last);
        }
    }
    rounds
}
