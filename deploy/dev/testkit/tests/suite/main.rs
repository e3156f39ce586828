//! The checker reports nothing about a correct history, and finds each kind of error.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::users::Layout;
use shared::{MinPoints, rounds};
use sqlx::raw_sql;
use testkit::{Checker, Observation, Program, Report, TEST_TIMEOUT, TestDatabase, eventually};

/// The writes of a worker's round without the fence: the tick is always due.
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

async fn checked(users: i64) -> (TestDatabase, Checker) {
    let database = TestDatabase::with_users(users).await;
    let checker = Checker::install(&database).await;
    (database, checker)
}

async fn round(database: &TestDatabase) {
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        MinPoints::draw(),
        TEST_TIMEOUT,
    )
    .await
    .unwrap();
}

/// Answers a query as a replica does, and records it.
async fn query(database: &TestDatabase, checker: &Checker) {
    let mut api = database.replica_session().await;
    let sent_at = Instant::now();
    let answer = api.answer().await.unwrap();
    checker.record(Observation {
        sent_at,
        received_at: Instant::now(),
        users: (answer.users.iter())
            .map(|user| json!({"id": user.id, "points": user.points}))
            .collect(),
        timestamp: answer
            .previous_at
            .map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
    });
}

/// The checker's report after a correct round and query, and then these statements.
async fn report_after(statements: &str) -> Report {
    let (database, checker) = checked(3).await;
    round(&database).await;
    query(&database, &checker).await;
    database.run(statements).await;
    checker.report(&database).await
}

#[tokio::test]
async fn a_correct_history_is_clean() {
    let (database, checker) = checked(100).await;
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
    assert_eq!((report.moves, report.lost_first_answers), (26, 0));
}

#[tokio::test]
async fn two_rounds_without_a_fence_are_detected() {
    let (database, checker) = checked(1).await;
    database.run(ROUND_WITHOUT_FENCE).await;
    let once = checker.report(&database).await;
    assert_eq!(once.count("ticks done twice"), 0, "{once}");
    database.run(ROUND_WITHOUT_FENCE).await;
    let twice = checker.report(&database).await;
    assert_eq!(twice.count("ticks done twice"), 1, "{twice}");
    assert!(!twice.is_clean());
}

#[tokio::test]
async fn two_holders_of_the_lock_are_detected() {
    let (database, checker) = checked(1).await;
    let (first_half, second_half) =
        ROUND_WITHOUT_FENCE.split_at(ROUND_WITHOUT_FENCE.find("insert").unwrap());
    let mut first = database.superuser().await;
    raw_sql(first_half).execute(&mut first).await.unwrap();
    // The other one begins, and waits for the row locks.
    let other = ROUND_WITHOUT_FENCE.replace("2026-01-01", "2026-01-02");
    let ((), waiting) = tokio::join!(database.run(&other), async {
        eventually("the other transaction waits for a lock", async || {
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
async fn an_incomplete_round_is_detected() {
    for half in [
        "update users set points = 1, updated_at = now()",
        "update settings set min_points = min_points",
        "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
         values (now(), true, now(), now(), 3)",
    ] {
        let report = report_after(half).await;
        assert_eq!(report.count("incomplete rounds"), 1, "{half}: {report}");
    }
}

#[tokio::test]
async fn a_user_that_is_not_renewed_is_detected() {
    let report = report_after("update users set points = 1, updated_at = now() where id > 1").await;
    assert_eq!(report.count("users not renewed"), 1, "{report}");
    let report = report_after("update users set points = 1").await;
    assert_eq!(report.count("users not renewed"), 3, "{report}");
}

#[tokio::test]
async fn users_that_do_not_qualify_or_are_too_few_are_detected() {
    for wrong in [
        "update settings set min_points = 100, first_user_id = 1, second_user_id = 2",
        "begin; update users set points = 50; update settings set min_points = 10, first_user_id = 1, second_user_id = null; commit",
    ] {
        let report = report_after(wrong).await;
        assert_eq!(
            report.count("rounds with wrong users"),
            1,
            "{wrong}: {report}"
        );
    }
}

#[tokio::test]
async fn a_fork_and_a_step_back_of_the_chain_are_detected() {
    for wrong in [
        // A query of another replica is lost.
        "update last_query set previous_at = previous_at, queried_at = clock_timestamp()",
        "update last_query set previous_at = queried_at, queried_at = queried_at - interval '1 second'",
    ] {
        let (database, checker) = checked(1).await;
        round(&database).await;
        query(&database, &checker).await;
        // The table's constraint would refuse one of them.
        database
            .run("alter table last_query drop constraint last_query_never_goes_back")
            .await;
        database.run(wrong).await;
        let report = checker.report(&database).await;
        assert_eq!(report.count("errors in the chain"), 1, "{wrong}: {report}");
    }
}

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
        .value("select to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') from last_query")
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
async fn a_test_ignores_the_environment_of_another_server() {
    // A test of this binary, in a process with that environment.
    let mut program = Program::spawn({
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_correct_history_is_clean"])
            .env("PGSSLMODE", "require")
            .env("PGOPTIONS", "-cwork_mem=1MB")
            .env("PGHOST", "nowhere")
            .env("PGDATESTYLE", "no such style");
        command
    });
    program.wait_for_output("1 passed").await;
    assert!(program.wait().await.success());
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
