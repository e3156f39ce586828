use std::time::{Duration, Instant};

use testkit::{NetworkFault, Proxy, TestDatabase, eventually};

use crate::words::{assert_problem, say};
use crate::{admin, replica, round};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_requests_get_503_and_when_it_is_back_answers() {
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
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..50 {
            requests.spawn(say(address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntraceparent: 00-canary-trace\r\n\r\n"));
        }
        for said in requests.join_all().await {
            assert_problem(&said, 503);
        }
        // The promise is a second; a machine that is busy with other tests gets more.
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        // Not the replica's fault: it stays in its load balancer.
        assert_eq!(client.get("/readyz").await.status, 200);
        assert_eq!(client.get("/livez").await.status, 200);
        assert!(
            String::from_utf8_lossy(&admin.get("/metrics").await.body)
                .contains("max_two_api_database_up 0")
        );
        database.server.lock().await.start_again().unwrap();
        eventually("it answers again", async || {
            client.get("/").await.status == 200
        })
        .await;
    }
    assert!(program.stop().await.success());
    let said = program.output();
    assert!(
        said.contains("00-canary-trace"),
        "the callers' traces are in the log of the failure: {said}"
    );
    let lines = said
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
    eventually("it is ready", async || {
        client.get("/readyz").await.status == 200
    })
    .await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn a_database_that_does_not_answer_costs_a_request_its_time_and_no_more() {
    let database = TestDatabase::with_users(100).await;
    let (_program, client) = replica(&database, &[("REQUEST_TIMEOUT", "400ms")]).await;
    eventually("it answers", async || client.get("/").await.status == 200).await;
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("begin; update last_query set queried_at = queried_at")
        .execute(&mut obstacle)
        .await
        .unwrap();
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 503);
    }
    sqlx::raw_sql("rollback")
        .execute(&mut obstacle)
        .await
        .unwrap();
    eventually("it answers again", async || {
        client.get("/").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn when_too_many_wait_the_next_gets_503_at_once() {
    let database = TestDatabase::with_users(100).await;
    let environment = [("MAX_WAITING", "3"), ("REQUEST_TIMEOUT", "1h")];
    let (mut program, client) = replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("begin; update last_query set queried_at = queried_at")
        .execute(&mut obstacle)
        .await
        .unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    let mut refused = 0;
    // One batch of at most three may be in its statement, and three in line.
    for _ in 0..12 {
        let client = client.clone();
        waiting.spawn(async move { client.get("/").await });
    }
    while refused < 6 {
        let reply = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "1");
        refused += 1;
    }
    sqlx::raw_sql("rollback")
        .execute(&mut obstacle)
        .await
        .unwrap();
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
async fn rounds_do_not_hold_requests_up() {
    let database = TestDatabase::with_users(50_000).await;
    round(&database, "10").await;
    let (_program, client) = replica(&database, &[]).await;
    // A round that is in the middle of its transaction for as long as we like.
    let mut worker = database.connect(&database.worker).await;
    sqlx::raw_sql("begin; update users set points = floor(random() * 101), updated_at = now(); update settings set min_points = 100")
        .execute(&mut worker)
        .await
        .unwrap();
    for _ in 0..50 {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["users"].as_array().unwrap().len(), 2);
    }
    // And with the whole table locked against everybody.
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("rollback")
        .execute(&mut worker)
        .await
        .unwrap();
    sqlx::raw_sql("begin; lock table users")
        .execute(&mut obstacle)
        .await
        .unwrap();
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_nobody_asked_anything_during_fails_no_request_later() {
    let database = TestDatabase::with_own_server().await;
    let (mut program, client) = replica(&database, &[]).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut server = database.server.lock().await;
    server.crash();
    program
        .wait_for_output("the database does not answer")
        .await;
    server.start_again().unwrap();
    drop(server);
    let said_before = || program.output().matches("the database is reached").count();
    eventually("it is reached again", async || said_before() == 2).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_network_that_goes_silent_is_noticed() {
    let database = TestDatabase::with_users(10).await;
    let port = database.server.lock().await.port();
    let proxy = Proxy::new(port).await;
    let url = proxy.url(&database.api);
    let environment = [("DATABASE_URL", &*url), ("REQUEST_TIMEOUT", "1s")];
    let (_program, client) = replica(&database, &environment).await;
    eventually("it answers", async || client.get("/").await.status == 200).await;
    proxy.set_fault(NetworkFault::Blackhole);
    assert_eq!(client.get("/").await.status, 503);
    proxy.set_fault(NetworkFault::None);
    eventually("it answers again", async || {
        client.get("/").await.status == 200
    })
    .await;
}
