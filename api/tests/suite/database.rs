//! A database that is away, slow, locked, read-only or incomplete, or that rounds write to: what
//! requests get, and how a replica recovers.

use std::time::{Duration, Instant};

use sqlx::raw_sql;
use testkit::{Client, NetworkFault, Proxy, TestDatabase, eventually};
use tokio::task::JoinSet;

use crate::raw_http::{assert_problem, send_raw};
use crate::{admin, replica, round, wait_until_ready};

/// Waits until the replica answers a query.
async fn wait_for_answer(client: &Client) {
    eventually("it answers", async || client.get("/").await.status == 200).await;
}

async fn is_database_up(admin: &Client) -> bool {
    admin
        .metrics()
        .await
        .contains("max_two_api_database_up 1\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_get_503_while_the_database_is_away_and_answers_once_it_is_back() {
    let database = TestDatabase::with_own_server().await;
    database.seed(100).await;
    round(&database, "10").await;
    let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    let address = program.address("listen").await;
    let admin = admin(&mut program).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status, 200);
        database.server.lock().await.crash();
        let began = Instant::now();
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            requests.spawn(send_raw(
                address,
                b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                  traceparent: 00-canary-trace\r\n\r\n",
            ));
        }
        for response in requests.join_all().await {
            assert_problem(&response, 503);
        }
        // The promise is one second. The bound is wider for machines that are busy with other
        // tests.
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        // The replica stays in its load balancer: the database is not its fault.
        assert_eq!(client.get("/readyz").await.status, 200);
        assert_eq!(client.get("/livez").await.status, 200);
        let metrics = admin.metrics().await;
        assert!(metrics.contains("max_two_api_database_up 0"), "{metrics}");
        database.server.lock().await.start_again().unwrap();
        wait_for_answer(&client).await;
    }
    assert!(program.stop().await.success());
    assert!(program.count_events("queries_failed") > 0);
    let output = program.output();
    assert!(
        output.contains("00-canary-trace"),
        "the log names the trace contexts of failed queries: {output}"
    );
    let lines = output
        .lines()
        .filter(|line| line.contains("\"WARN\""))
        .count();
    assert!(lines <= 60, "{lines} warnings for two outages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_before_its_database_waits_for_it() {
    let database = TestDatabase::with_own_server().await;
    database.server.lock().await.stop();
    let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/").await.status, 503);
    database.server.lock().await.start_again().unwrap();
    wait_until_ready(&client).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn a_database_that_does_not_answer_costs_a_request_no_more_than_its_timeout() {
    let database = TestDatabase::with_users(100).await;
    let (_program, client) = replica(&database, &[("REQUEST_TIMEOUT", "400ms")]).await;
    wait_for_answer(&client).await;
    let mut obstacle = database.superuser().await;
    raw_sql("begin; update last_query set queried_at = queried_at")
        .execute(&mut obstacle)
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 503);
    }
    raw_sql("rollback").execute(&mut obstacle).await.unwrap();
    wait_for_answer(&client).await;
}

#[tokio::test]
async fn a_request_that_finds_the_queue_full_gets_503_at_once() {
    let database = TestDatabase::with_users(100).await;
    let environment = [("MAX_WAITING", "3"), ("REQUEST_TIMEOUT", "1h")];
    let (mut program, client) = replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut obstacle = database.superuser().await;
    raw_sql("begin; update last_query set queried_at = queried_at")
        .execute(&mut obstacle)
        .await
        .unwrap();
    let mut waiting = JoinSet::new();
    let mut rejected = 0;
    // At most three queries are in the running batch, and three in the queue.
    for _ in 0..12 {
        let client = client.clone();
        waiting.spawn(async move { client.get("/").await });
    }
    while rejected < 6 {
        let reply = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "1");
        rejected += 1;
    }
    raw_sql("rollback").execute(&mut obstacle).await.unwrap();
    let statuses: Vec<_> = waiting
        .join_all()
        .await
        .iter()
        .map(|reply| reply.status.as_u16())
        .collect();
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn an_answer_that_waited_while_a_round_was_done_shows_the_users_of_that_round() {
    let database = TestDatabase::with_users(10_000).await;
    round(&database, "0").await;
    let (_program, client) = replica(&database, &[]).await;
    assert_eq!(client.get("/").await.status, 200);
    for _ in 0..3 {
        // Another replica has the row of the chain when a request arrives.
        let mut other = database.superuser().await;
        raw_sql("begin; select from last_query for update")
            .execute(&mut other)
            .await
            .unwrap();
        let request = tokio::spawn({
            let client = client.clone();
            async move { client.get("/").await.json() }
        });
        eventually("the query waits for the row", async || {
            database
                .value(
                    "select exists (select from pg_stat_activity \
                     where datname = current_database() and application_name = 'max-two-api' \
                     and wait_event_type = 'Lock')",
                )
                .await
        })
        .await;
        round(&database, "0").await;
        raw_sql(
            "update last_query set previous_at = queried_at, queried_at = clock_timestamp(); \
             commit",
        )
        .execute(&mut other)
        .await
        .unwrap();
        let shown: String = database
            .value(
                "select jsonb_build_array( \
                     jsonb_build_object('id', first_user_id, 'points', first_points), \
                     jsonb_build_object('id', second_user_id, 'points', second_points) \
                 )::text from settings",
            )
            .await;
        assert_eq!(
            request.await.unwrap()["users"],
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            "its timestamp is later than the round"
        );
    }
}

#[tokio::test]
async fn rounds_do_not_delay_requests() {
    let database = TestDatabase::with_users(50_000).await;
    round(&database, "10").await;
    let (_program, client) = replica(&database, &[]).await;
    // A round whose transaction stays open.
    let mut worker = database.connect(&database.worker).await;
    raw_sql(
        "begin; \
         update users set points = floor(random() * 101), updated_at = now(); \
         update settings set min_points = 100",
    )
    .execute(&mut worker)
    .await
    .unwrap();
    for _ in 0..50 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["users"].as_array().unwrap().len(), 2);
    }
    // The same with an exclusive lock on the whole table.
    let mut obstacle = database.superuser().await;
    raw_sql("rollback").execute(&mut worker).await.unwrap();
    raw_sql("begin; lock table users")
        .execute(&mut obstacle)
        .await
        .unwrap();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_database_between_requests_fails_none() {
    let database = TestDatabase::with_own_server().await;
    let (mut program, client) = replica(&database, &[]).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut server = database.server.lock().await;
    server.crash();
    program.wait_for_event("database_unavailable").await;
    server.start_again().unwrap();
    drop(server);
    eventually("it is connected again", async || {
        program.count_events("database_connected") == 2
    })
    .await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_network_that_drops_everything_is_noticed() {
    let database = TestDatabase::with_users(10).await;
    let port = database.server.lock().await.port();
    let proxy = Proxy::new(port).await;
    let url = proxy.url(&database.api);
    let environment = [("DATABASE_URL", &*url), ("REQUEST_TIMEOUT", "1s")];
    let (_program, client) = replica(&database, &environment).await;
    wait_for_answer(&client).await;
    proxy.set_fault(NetworkFault::Blackhole);
    assert_eq!(client.get("/").await.status, 503);
    proxy.set_fault(NetworkFault::None);
    wait_for_answer(&client).await;
}

#[tokio::test]
async fn a_replica_is_not_ready_while_a_row_that_it_answers_from_is_missing() {
    for (missing, restore) in [
        ("settings", "insert into settings (min_points) values (100)"),
        ("last_query", "insert into last_query default values"),
    ] {
        let database = TestDatabase::new().await;
        database.run(&format!("delete from {missing}")).await;
        let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
        program.wait_for_event("database_refused").await;
        assert_eq!(client.get("/readyz").await.status, 503);
        let admin = admin(&mut program).await;
        assert!(!is_database_up(&admin).await);
        assert!(program.output().contains(missing), "{}", program.output());
        database.run(restore).await;
        wait_until_ready(&client).await;
        assert!(is_database_up(&admin).await);
        assert_eq!(program.count_events("database_refused"), 1);
    }
}

#[tokio::test]
async fn a_read_only_primary_is_no_database_to_answer_from() {
    let database = TestDatabase::new().await;
    let alter = format!("alter role max_two_api in database {} ", database.name());
    let read_only = format!("{alter} set default_transaction_read_only = on");
    let writable = format!("{alter} reset default_transaction_read_only");
    // From the start.
    database.run(&read_only).await;
    let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    program.wait_for_output("read-only").await;
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/").await.status, 503);
    let admin = admin(&mut program).await;
    assert!(!is_database_up(&admin).await);
    database.run(&writable).await;
    wait_for_answer(&client).await;
    // Later, as when a disk fills up.
    database.run(&read_only).await;
    database
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where usename = 'max_two_api' and datname = current_database()",
        )
        .await;
    eventually("it notices", async || !is_database_up(&admin).await).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 503);
        assert!(!is_database_up(&admin).await);
    }
    assert_eq!(client.get("/readyz").await.status, 200);
    database.run(&writable).await;
    wait_for_answer(&client).await;
    let lines = program
        .output()
        .matches("the database is read-only")
        .count();
    assert_eq!(lines, 2, "{}", program.output());
}

/// The message passes the check, which rolls it back, and fails when it commits.
#[tokio::test]
async fn a_query_that_fails_at_once_causes_backoff_and_one_line() {
    let database = TestDatabase::new().await;
    let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    wait_for_answer(&client).await;
    database
        .run(
            "create function fail() returns trigger language plpgsql as \
             'begin raise exception ''canary failure''; end'; \
             create constraint trigger fail after update on last_query \
             deferrable initially deferred for each row execute function fail()",
        )
        .await;
    let admin = admin(&mut program).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert!(!is_database_up(&admin).await);
    let output = program.output();
    let failures = output.matches("canary failure").count();
    assert!((1..=2).contains(&failures), "{failures} lines: {output}");
    database.run("drop trigger fail on last_query").await;
    wait_for_answer(&client).await;
    eventually("the database is up", async || is_database_up(&admin).await).await;
}

// No timeout and no lost client ends the wait of a commit for its standby.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_do_not_pile_up_while_no_standby_acknowledges() {
    let database = TestDatabase::with_own_server().await;
    let (_first, first) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    let (_second, second) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    for client in [&first, &second, &first, &second] {
        assert_eq!(client.get("/").await.status, 200);
    }
    // No standby has this name.
    database
        .run("alter system set synchronous_standby_names = 'missing'")
        .await;
    database.run("select pg_reload_conf()").await;
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
    database
        .run("alter system reset synchronous_standby_names")
        .await;
    database.run("select pg_reload_conf()").await;
    for client in [&first, &second] {
        wait_for_answer(client).await;
    }
}
