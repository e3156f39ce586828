//! Answers that contradict the database's audit or each other are detected.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Checker, Observation, TestDatabase};

use crate::{checked, query, round};

/// Does rounds until one of them has chosen users, and returns these.
async fn round_with_users(database: &TestDatabase) -> Value {
    loop {
        round(database).await;
        let users: Value = database
            .value("select users from audit.choices order by number desc limit 1")
            .await;
        if users != json!([]) {
            return users;
        }
    }
}

/// The time of the last query, in the format of an answer.
async fn last_queried(database: &TestDatabase) -> String {
    database
        .value(
            "select to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') \
             from last_query",
        )
        .await
}

#[tokio::test]
async fn answers_that_contradict_are_detected() {
    let (database, checker) = checked(100).await;
    query(&database, &checker).await;
    let oldest = &round_with_users(&database).await;
    let newest = &round_with_users(&database).await;
    query(&database, &checker).await;
    query(&database, &checker).await;
    let second = last_queried(&database).await;
    let began = Instant::now();
    let record = |checker: &Checker, milliseconds: u64, users: &Value, timestamp: Option<&str>| {
        checker.record(Observation {
            sent_at: began + Duration::from_millis(milliseconds),
            received_at: began + Duration::from_millis(milliseconds + 1),
            users: users.clone(),
            timestamp: timestamp.map(ToOwned::to_owned),
        });
    };
    for (users, timestamp, contradiction) in [
        (newest, None, "two answers are the very first"),
        (newest, Some("1999-07-30 17:09:33"), "time went back"),
        (
            newest,
            Some("2999-07-30 17:09:33"),
            "no query was answered at",
        ),
        (
            &json!([{"id": 1, "points": 101}]),
            Some(&*second),
            "no round chose",
        ),
        (oldest, Some(&*second), "users of an older round came back"),
    ] {
        let checker = Checker::default();
        record(&checker, 0, &json!([]), None);
        record(&checker, 10, newest, Some(&second));
        assert!(checker.report(&database).await.contradictions.is_empty());
        record(&checker, 20, users, timestamp);
        let report = checker.report(&database).await;
        assert!(
            report
                .contradictions
                .iter()
                .any(|text| text.contains(contradiction)),
            "{contradiction}: {report}"
        );
    }
}

#[tokio::test]
async fn users_of_a_round_before_or_after_the_place_in_the_chain_are_detected() {
    let (database, checker) = checked(100).await;
    query(&database, &checker).await;
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let users = round_with_users(&database).await;
        query(&database, &checker).await;
        let timestamp = last_queried(&database).await;
        // The next query shows that timestamp, too, and its users may have been read at any time
        // before the query after it.
        query(&database, &checker).await;
        query(&database, &checker).await;
        rounds.push((users, timestamp));
    }
    let (_, timestamp) = &rounds[1];
    for (number, (users, _)) in rounds.iter().enumerate() {
        let checker = Checker::default();
        checker.record(Observation {
            sent_at: Instant::now(),
            received_at: Instant::now(),
            users: users.clone(),
            timestamp: Some(timestamp.clone()),
        });
        let contradictions = checker.report(&database).await.contradictions;
        assert_eq!(
            contradictions.len(),
            usize::from(number != 1),
            "{contradictions:?}"
        );
    }
}
