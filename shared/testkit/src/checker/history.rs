//! Compares the clients' answers with the audit, and with each other in the order of the clients'
//! clock.

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
    /// The number and the users of each choice, in ascending order.
    pub(super) choices: Vec<(i64, Value)>,
    /// The choices whose users an answer with this timestamp may show.
    pub(super) places: HashMap<Option<String>, RangeInclusive<i64>>,
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
    let choices = choices_by_users(&audit.choices);
    let mut by_sending: Vec<_> = observations.iter().collect();
    by_sending.sort_by_key(|observation| observation.sent_at);
    let mut by_receipt = by_sending.clone();
    by_receipt.sort_by_key(|observation| observation.received_at);
    let mut by_receipt = by_receipt.into_iter().peekable();
    // The latest timestamp and choice among the answers received before this request was sent.
    let (mut latest_timestamp, mut latest_choice) = (&None, 0);
    for observation in by_sending {
        while let Some(earlier) =
            by_receipt.next_if(|earlier| earlier.received_at < observation.sent_at)
        {
            latest_timestamp = latest_timestamp.max(&earlier.timestamp);
            if let Some(numbers) = choices.get(&earlier.users.to_string()) {
                latest_choice = latest_choice.max(numbers[0]);
            }
        }
        let Observation {
            users, timestamp, ..
        } = observation;
        if timestamp < latest_timestamp {
            contradictions.push(format!("time went back to {timestamp:?}"));
        }
        let place = audit.places.get(timestamp);
        if place.is_none() {
            contradictions.push(match timestamp {
                Some(second) => format!("no query was answered at {second}"),
                None => "no query was the very first".to_owned(),
            });
        }
        let Some(numbers) = choices.get(&users.to_string()) else {
            contradictions.push(format!("no round chose {users}"));
            continue;
        };
        if numbers.iter().all(|&number| number < latest_choice) {
            contradictions.push(format!("users of an older round came back: {users}"));
        }
        if let Some(place) = place
            && !numbers.iter().any(|number| place.contains(number))
        {
            contradictions.push(format!(
                "after {timestamp:?}, users of choice {numbers:?} instead of {place:?}: {users}"
            ));
        }
    }
    contradictions
}

/// The numbers of the choices of each pair of users, in ascending order. Before the first choice,
/// number 0, there are no users.
fn choices_by_users(choices: &[(i64, Value)]) -> HashMap<String, Vec<i64>> {
    let mut numbers = HashMap::from([("[]".to_owned(), vec![0])]);
    for (number, users) in choices {
        numbers.entry(users.to_string()).or_default().push(*number);
    }
    numbers
}
