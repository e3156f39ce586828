//! A database that is away, locked, read-only or incomplete: what requests get, what is
//! logged, and how a replica recovers.

use std::time::{Duration, Instant};

use testkit::{Client, TestDatabase, eventually};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::raw::{GET, assert_problem, send_raw};
use crate::{admin_client, end_sessions, lock_last_query, start_replica, wait_until_ready};

/// Waits until the replica answers a query.
async fn wait_for_answer(client: &Client) {
    eventually("it answers", async || client.get("/").await.status == 200).await;
}

async fn is_database_up(admin: &Client) -> bool {
    let metrics = admin.get("/metrics").await.body;
    metrics.contains("max_two_api_database_up 1\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_get_503_while_the_database_is_away_and_answers_once_it_is_back() {
    let database = TestDatabase::with_own_server(&[]).await;
    database.server.lock().await.stop();
    let (mut program, client) = start_replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    let address = program.address("listen").await;
    let admin = admin_client(&mut program).await;
    assert_eq!(client.get("/readyz").await.status, 503);
    for outage in 1..=3 {
        assert_eq!(client.get("/livez").await.status, 200);
        let began = Instant::now();
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            requests.spawn(send_raw(address, GET));
        }
        for response in requests.join_all().await {
            assert_problem(&response, 503);
        }
        // The promise is one second. The bound is wider for machines that are busy with other
        // tests.
        let elapsed = began.elapsed();
        assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
        assert!(!is_database_up(&admin).await);
        database.server.lock().await.start().unwrap();
        // It connects without a request, so that none fails.
        eventually("it is connected", async || {
            program.count_events("database_connected") == outage
        })
        .await;
        assert_eq!(client.get("/").await.status, 200);
        database.server.lock().await.crash();
        eventually("it notices", async || !is_database_up(&admin).await).await;
        // The replica stays in its load balancer: the database is not its fault.
        assert_eq!(client.get("/readyz").await.status, 200);
    }
    assert!(program.stop().await.success());
    // One for each reason.
    let warnings = program.output().matches("\"WARN\"").count();
    assert!(warnings <= 15, "{warnings} warnings for three outages");
}

#[tokio::test]
async fn a_request_that_finds_the_queue_full_gets_503_at_once() {
    let database = TestDatabase::with_users(100).await;
    let environment = [("MAX_WAITING", "3"), ("REQUEST_TIMEOUT", "1h")];
    let (mut program, client) = start_replica(&database, &environment).await;
    let admin = admin_client(&mut program).await;
    assert_eq!(client.get("/").await.status, 200);
    let obstacle = lock_last_query(&database).await;
    let mut waiting = JoinSet::new();
    let mut send = || {
        let client = client.clone();
        waiting.spawn(async move { client.get("/").await });
    };
    send();
    database.wait_for_session("wait_event_type = 'Lock'").await;
    // One query is in the running batch, and three fit into the queue.
    for _ in 0..11 {
        send();
    }
    for _ in 0..8 {
        let reply = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "1");
    }
    // The others still wait.
    let metrics = admin.get("/metrics").await.body;
    let full = "max_two_api_waiting_queries 3\n";
    assert!(metrics.contains(full), "{metrics}");
    drop(obstacle);
    let replies = waiting.join_all().await;
    assert!(replies.iter().any(|reply| reply.status == 200));
}

#[tokio::test]
async fn a_replica_is_ready_once_it_has_a_database_from_which_it_can_answer() {
    let database = TestDatabase::new().await;
    database.run("delete from last_query").await;
    let (mut program, client) = start_replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    let admin = admin_client(&mut program).await;
    program.wait_for_event("database_refused").await;
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/").await.status, 503);
    assert!(!is_database_up(&admin).await);
    database.run("insert into last_query default values").await;
    wait_until_ready(&client).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(is_database_up(&admin).await);
    // Later it stays ready, because all replicas share the database. An operator is told.
    let read_only = format!("alter role max_two_api in database {}", database.name);
    let read_only = format!("{read_only} set default_transaction_read_only");
    database.run(&format!("{read_only} = on")).await;
    end_sessions(&database).await;
    program.wait_for_output("read-only").await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert!(!is_database_up(&admin).await);
    assert_eq!(client.get("/readyz").await.status, 200);
    database.run(&format!("{read_only} = off")).await;
    wait_for_answer(&client).await;
    assert!(program.stop().await.success());
    for reason in ["the only row of", "read-only"] {
        let output = program.output();
        let lines = output.lines().filter(|line| line.contains(reason)).count();
        assert_eq!(lines, 1, "{output}");
    }
}

/// The message passes the check, which rolls it back, and fails when it commits.
#[tokio::test]
async fn a_query_that_fails_at_once_causes_backoff_and_one_line() {
    let database = TestDatabase::new().await;
    let (mut program, client) = start_replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    wait_for_answer(&client).await;
    database
        .run(
            "create function fail() returns trigger language plpgsql as \
             'begin raise exception ''canary failure'' using errcode = ''40001''; end'; \
             create constraint trigger fail after update on last_query \
             deferrable initially deferred for each row execute function fail()",
        )
        .await;
    let admin = admin_client(&mut program).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 503);
    }
    // However long a session lasts without a query.
    sleep(Duration::from_secs(2)).await;
    assert!(!is_database_up(&admin).await);
    let output = program.output();
    let failures = output.matches("canary failure").count();
    assert!((1..=3).contains(&failures), "{failures} lines: {output}");
    database.run("drop trigger fail on last_query").await;
    wait_for_answer(&client).await;
    eventually("the database is up", async || is_database_up(&admin).await).await;
}

// No timeout and no lost client ends the wait of a commit for its standby.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_do_not_pile_up_while_no_standby_acknowledges() {
    let database = TestDatabase::with_own_server(&[]).await;
    let (_first, first) = start_replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    let (_second, second) = start_replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    for client in [&first, &second, &first, &second] {
        assert_eq!(client.get("/").await.status, 200);
    }
    // No standby has this name.
    let missing = "set synchronous_standby_names = 'missing'";
    database.configure(missing).await;
    // The checkpointer puts it into effect, a moment later.
    eventually("commits wait for it", async || {
        first.get("/").await.status == 503
    })
    .await;
    for _ in 0..5 {
        for client in [&first, &second] {
            assert_eq!(client.get("/").await.status, 503);
        }
    }
    let sessions = "select count(*) from pg_stat_activity where usename = 'max_two_api'";
    let sessions: i64 = database.value(sessions).await;
    // Each replica has left one that waits, and at most one more has the row. The others fail
    // before they move it.
    assert!(sessions <= 5, "{sessions} sessions of two replicas");
}
