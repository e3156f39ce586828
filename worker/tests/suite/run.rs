//! The worker as it runs: which ticks it does, what it reports, how it stops, and what its admin
//! listener answers.

use std::time::{Duration, Instant};

use testkit::{Client, TestDatabase, eventually};
use warp::http::Method;

use crate::{IN_ENDLESS_ROUND, YEARLY, count_rounds, make_rounds_endless, start, worker};

const EVERY_SECOND: (&str, &str) = ("SCHEDULE", "* * * * * *");
const NO_COOLDOWN: (&str, &str) = ("COOLDOWN", "0s");

/// Waits until the worker has counted this many attempts with this outcome, or more.
async fn wait_for_attempts(admin: &Client, outcome: &str, count: u32) {
    let name = format!("max_two_worker_round_attempts_total{{outcome=\"{outcome}\"}} ");
    eventually(&name, async || {
        let text = admin.get("/metrics").await.body;
        let counted = text.lines().find_map(|line| line.strip_prefix(&name));
        counted.unwrap().parse::<u32>().unwrap() >= count
    })
    .await;
}

#[tokio::test]
async fn ticks_that_were_missed_are_one_round_at_the_start_and_none_by_the_next_worker() {
    let database = TestDatabase::with_users(100).await;
    let ten_ticks_ago = "date_trunc('year', now(), 'UTC') - interval '10 years'";
    database.insert_round(ten_ticks_ago, ten_ticks_ago).await;
    let mut first = worker(&database, &[], &[YEARLY]);
    first.wait_for_event("round_done").await;
    let mut second = worker(&database, &["run"], &[YEARLY]);
    let admin = Client::new(second.address("admin").await);
    wait_for_attempts(&admin, "not_due", 1).await;
    let ticks = format!("select array_agg(tick_at) from rounds where tick_at > {ten_ticks_ago}");
    let is_latest = format!("select ({ticks}) = array[date_trunc('year', now(), 'UTC')]");
    assert!(database.value::<bool>(&is_latest).await);

    let admin_of_first = Client::new(first.address("admin").await);
    let metrics = admin_of_first.get("/metrics").await;
    let last_round: f64 = database
        .value("select extract(epoch from max(finished_at))::float8 from rounds")
        .await;
    // All outcomes are there from the start: a rate misses the first increment of a new series.
    for line in [
        "max_two_worker_round_attempts_total{outcome=\"done\"} 1",
        "max_two_worker_round_attempts_total{outcome=\"not_due\"} ",
        "max_two_worker_round_attempts_total{outcome=\"busy\"} 0",
        "max_two_worker_round_attempts_total{outcome=\"cooling_down\"} 0",
        "max_two_worker_round_attempts_total{outcome=\"failed\"} 0",
        "max_two_worker_round_duration_seconds_count 1",
        &format!("max_two_worker_last_round_timestamp_seconds {last_round}"),
        "max_two_worker_database_up 1",
        "max_two_worker_build_info{version=",
    ] {
        assert!(metrics.body.contains(line), "{line}: {}", metrics.body);
    }
    // The second learns of the round from the fence.
    let last_round = format!("max_two_worker_last_round_timestamp_seconds {last_round}");
    assert!(admin.get("/metrics").await.body.contains(&last_round));
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());
}

#[tokio::test]
async fn a_signal_during_a_round_rolls_it_back() {
    let database = TestDatabase::with_users(10).await;
    make_rounds_endless(&database).await;
    let mut program = worker(&database, &[], &[YEARLY]);
    database.wait_for_session(IN_ENDLESS_ROUND).await;
    let stopped_at = Instant::now();
    assert!(program.stop().await.success(), "{}", program.output());
    eventually("the statement has ended", async || {
        !database.has_session(IN_ENDLESS_ROUND).await
    })
    .await;
    // The promise is two seconds. The test allows more, because other tests load the machine.
    let delay = stopped_at.elapsed();
    assert!(delay < Duration::from_secs(8), "{delay:?}");
    assert_eq!(count_rounds(&database).await, 0);
}

#[tokio::test]
async fn a_worker_reports_the_cooldown_after_a_round_that_overran() {
    let database = TestDatabase::with_users(100).await;
    let [began_at, ended_at] = ["10 seconds", "5 seconds"]
        .map(|ago| format!("date_trunc('second', now()) - interval '{ago}'"));
    database.insert_round(&began_at, &ended_at).await;
    let mut program = worker(&database, &[], &[EVERY_SECOND, ("COOLDOWN", "1h")]);
    program.wait_for_event("round_cooling_down").await;
    let admin = Client::new(program.address("admin").await);
    wait_for_attempts(&admin, "cooling_down", 2).await;
    assert!(program.stop().await.success());
    // Logged once, however long it lasts.
    assert_eq!(program.count_events("round_cooling_down"), 1);
    assert_eq!(program.count_events("round_done"), 0);
}

#[tokio::test]
async fn a_worker_says_once_how_far_ahead_the_clock_was_and_goes_on() {
    let database = TestDatabase::with_users(100).await;
    database
        .run("update last_query set queried_at = now() + interval '2 hours'")
        .await;
    let mut program = worker(&database, &[], &[EVERY_SECOND, NO_COOLDOWN]);
    let seconds = program.field("ahead_seconds").await.as_f64().unwrap();
    assert!((7_000.0..=7_200.0).contains(&seconds), "{seconds}");
    let admin = Client::new(program.address("admin").await);
    wait_for_attempts(&admin, "done", 3).await;
    assert!(program.stop().await.success());
    assert_eq!(program.count_events("clock_was_ahead"), 1);
}

#[tokio::test]
async fn a_round_that_updates_no_user_is_a_warning() {
    let database = TestDatabase::new().await;
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_event("round_without_users").await;
    program.wait_for_event("round_done").await;
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn the_admin_listener_and_the_health_check_answer() {
    let database = TestDatabase::with_users(10).await;
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_event("round_done").await;
    let address = program.address("admin").await;
    let admin = Client::new(address);
    for path in ["/livez", "/readyz", "/metrics"] {
        let head = admin.send(Method::HEAD, path).await.unwrap();
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{path}");
        for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
            let reply = admin.send(method.clone(), path).await.unwrap();
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), "GET, HEAD");
        }
    }
    for method in [Method::GET, Method::HEAD, Method::POST] {
        let reply = admin.send(method.clone(), "/nope").await.unwrap();
        assert_eq!(reply.status, 404, "{method}");
    }
    let address = address.to_string();
    let environment = [("ADMIN_LISTEN", &*address)];
    let mut check = start(&["healthcheck"], &environment);
    assert!(check.wait().await.success(), "{}", check.output());
    assert!(program.stop().await.success());
    let mut check = start(&["healthcheck"], &environment);
    assert_eq!(check.wait().await.code(), Some(1));
    assert!(check.output().starts_with("/livez: "), "{}", check.output());
}
