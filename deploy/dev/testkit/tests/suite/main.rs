//! The checker, judged: it finds nothing wrong with what is right, and finds each thing that is wrong.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::users::Layout;
use shared::{MinPoints, last_query, rounds};
use sqlx::raw_sql;
use testkit::{Checker, Observation, PATIENCE, Report, TestDatabase, eventually};

/// A worker's round as ours does it, but without its fence: it believes that its tick is always due.
const ROUND_WITHOUT_FENCE: &str = "
    begin;
    select pg_try_advisory_xact_lock(1);
    update users set points = floor(random() * 101), updated_at = now();
    update settings set min_points = 0, first_user_id = 1, second_user_id = null where (select points from users where id = 1) > 0;
    update settings set min_points = 100, first_user_id = null, second_user_id = null where (select points from users where id = 1) = 0;
    insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
    values ('2026-01-01 00:00:00Z', true, now(), clock_timestamp(), 1)
    on conflict (tick_at) do update set finished_at = excluded.finished_at, started_at = excluded.started_at;
    commit";

async fn watched(users: i64) -> (TestDatabase, Checker) {
    let database = TestDatabase::with_users(users).await;
    let checker = Checker::install(&database).await;
    (database, checker)
}

async fn round(database: &TestDatabase) {
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(&mut worker, Layout::SingleNode, MinPoints::draw(), PATIENCE)
        .await
        .unwrap();
}

/// Answers a query as a replica does, and lets the checker see it.
async fn query(database: &TestDatabase, checker: &Checker) {
    let mut api = database.connect(&database.api).await;
    let asked_at = Instant::now();
    let answer = last_query::answer(&mut api).await.unwrap();
    checker.saw(Observation {
        asked_at,
        answered_at: Instant::now(),
        users: (answer.users.iter())
            .map(|user| json!({"id": user.id, "points": user.points}))
            .collect(),
        timestamp: answer
            .previous_at
            .map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
    });
}

/// What the checker says after one good round with queries, and then this.
async fn after(what: &str) -> Report {
    let (database, checker) = watched(3).await;
    round(&database).await;
    query(&database, &checker).await;
    database.run(what).await;
    checker.report(&database).await
}

#[tokio::test]
async fn what_is_right_is_clean() {
    let (database, checker) = watched(100).await;
    query(&database, &checker).await;
    for _ in 0..5 {
        round(&database).await;
        for _ in 0..5 {
            query(&database, &checker).await;
        }
    }
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rounds, report.answers), (5, 26));
    assert_eq!((report.batches, report.unclaimed), (26, 0));
}

#[tokio::test]
async fn two_workers_without_a_fence_are_caught() {
    let (database, checker) = watched(1).await;
    database.run(ROUND_WITHOUT_FENCE).await;
    let once = checker.report(&database).await;
    assert_eq!(once.count("ticks done twice"), 0, "{once}");
    database.run(ROUND_WITHOUT_FENCE).await;
    let twice = checker.report(&database).await;
    assert_eq!(twice.count("ticks done twice"), 1, "{twice}");
    assert!(!twice.is_clean());
}

#[tokio::test]
async fn two_holders_of_the_lock_are_caught() {
    let (database, checker) = watched(1).await;
    let (first_half, second_half) =
        ROUND_WITHOUT_FENCE.split_at(ROUND_WITHOUT_FENCE.find("insert").unwrap());
    let mut first = database.superuser().await;
    raw_sql(first_half).execute(&mut first).await.unwrap();
    // It begins, and waits for the rows.
    let other = ROUND_WITHOUT_FENCE.replace("2026-01-01", "2026-01-02");
    let ((), waiting) = tokio::join!(database.run(&other), async {
        eventually("the other one waits", async || {
            database.value("select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')").await
        })
        .await;
        raw_sql(second_half).execute(&mut first).await
    });
    waiting.unwrap();
    let report = checker.report(&database).await;
    assert_eq!(
        (
            report.count("rounds at the same time"),
            report.count("ticks done twice")
        ),
        (1, 0),
        "{report}"
    );
    assert!(!report.is_clean());
}

#[tokio::test]
async fn half_a_round_is_caught() {
    for half in [
        "update users set points = 1, updated_at = now()",
        "update settings set min_points = min_points",
        "insert into rounds values (now(), true, now(), now(), 3)",
    ] {
        let report = after(half).await;
        assert_eq!(report.count("half rounds"), 1, "{half}: {report}");
    }
}

#[tokio::test]
async fn a_user_who_is_left_out_is_caught() {
    let report = after("update users set points = 1, updated_at = now() where id > 1").await;
    assert_eq!(report.count("users left out"), 1, "{report}");
    let report = after("update users set points = 1").await;
    assert_eq!(report.count("users left out"), 3, "{report}");
}

#[tokio::test]
async fn users_who_do_not_qualify_or_are_too_few_are_caught() {
    for wrong in [
        "update settings set min_points = 100, first_user_id = 1, second_user_id = 2",
        "begin; update users set points = 50; update settings set min_points = 10, first_user_id = 1, second_user_id = null; commit",
    ] {
        let report = after(wrong).await;
        assert_eq!(
            report.count("rounds with wrong users"),
            1,
            "{wrong}: {report}"
        );
    }
}

#[tokio::test]
async fn a_fork_and_a_step_back_of_the_chain_are_caught() {
    for wrong in [
        // Another replica's query is forgotten.
        "update last_query set previous_at = previous_at, queried_at = clock_timestamp()",
        "update last_query set previous_at = queried_at, queried_at = queried_at - interval '1 second'",
    ] {
        let (database, checker) = watched(1).await;
        round(&database).await;
        query(&database, &checker).await;
        // The table's own rule would refuse one of them.
        database
            .run("alter table last_query drop constraint last_query_never_goes_back")
            .await;
        database.run(wrong).await;
        let report = checker.report(&database).await;
        assert_eq!(report.count("errors in the chain"), 1, "{wrong}: {report}");
    }
}

#[tokio::test]
async fn answers_that_contradict_are_caught() {
    let (database, checker) = watched(100).await;
    let seen = async || -> Vec<Value> {
        database
            .values("select users from audit.choices order by number")
            .await
    };
    while seen()
        .await
        .iter()
        .filter(|users| *users != &json!([]))
        .count()
        < 2
    {
        round(&database).await;
    }
    query(&database, &checker).await;
    query(&database, &checker).await;
    let second: String = database
        .value("select to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') from last_query")
        .await;
    let mut choices = seen().await;
    choices.retain(|users| users != &json!([]));
    let began = Instant::now();
    let saw = |checker: &Checker, milliseconds: u64, users: &Value, timestamp: Option<&str>| {
        checker.saw(Observation {
            asked_at: began + Duration::from_millis(milliseconds),
            answered_at: began + Duration::from_millis(milliseconds + 1),
            users: users.clone(),
            timestamp: timestamp.map(ToOwned::to_owned),
        });
    };
    let (newest, oldest) = (choices.last().unwrap(), choices.first().unwrap());
    for (users, timestamp, complaint) in [
        (newest, None, "two queries were the very first"),
        (newest, Some("2020-07-30 17:09:33"), "time went back"),
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
        (oldest, Some(&*second), "an older round's"),
    ] {
        let checker = Checker::default();
        saw(&checker, 0, &json!([]), None);
        saw(&checker, 10, newest, Some(&second));
        assert!(checker.report(&database).await.contradictions.is_empty());
        saw(&checker, 20, users, timestamp);
        let report = checker.report(&database).await;
        assert!(
            report
                .contradictions
                .iter()
                .any(|said| said.contains(complaint)),
            "{complaint}: {report}"
        );
    }
}
