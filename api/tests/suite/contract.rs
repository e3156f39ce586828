//! What a replica's clients and operators rely on: answers, their headers and order, secrecy,
//! metrics, the description and readiness.

use std::collections::BTreeMap;
use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};
use testkit::{Client, Program, TestDatabase};
use tokio::task::JoinSet;

use crate::{admin, replica, round, wait_until_ready};

#[tokio::test]
async fn an_answer_is_two_users_in_order_and_the_time_of_the_previous_query() {
    let database = TestDatabase::with_users(1_000).await;
    round(&database, "40").await;
    let (mut program, client) = replica(&database, &[]).await;
    let first = client.get("/").await;
    assert_eq!(first.status, 200, "{}", program.output());
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!(first.header("x-content-type-options"), "nosniff");
    let answer = first.json();
    assert_eq!(answer["timestamp"], Value::Null);
    let users = answer["users"].as_array().unwrap();
    assert_eq!(users.len(), 2);
    assert!(users[0]["id"].as_i64() < users[1]["id"].as_i64());
    assert!(users.iter().all(|user| user["points"].as_i64() > Some(40)));
    assert!(
        users
            .iter()
            .all(|user| user.as_object().unwrap().len() == 2)
    );

    let previous: String = database
        .value(
            "select to_char(queried_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
             from last_query",
        )
        .await;
    let second = client.get("/?x=y").await.json();
    assert_eq!(second, json!({"users": users, "timestamp": previous}));
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn head_is_get_without_the_body_and_a_query_of_the_chain() {
    let database = TestDatabase::with_users(10).await;
    let (_program, client) = replica(&database, &[]).await;
    let head = client.send(Method::HEAD, "/").await.unwrap();
    let get = client.get("/").await;
    assert_eq!(head.status, 200);
    assert_eq!(head.body.len(), 0);
    assert_eq!(head.header("content-type"), get.header("content-type"));
    // The HEAD was the very first query, and its timestamp null.
    assert_eq!(
        head.header("content-length"),
        r#"{"users":[],"timestamp":null}"#.len().to_string()
    );
    assert!(get.json()["timestamp"].is_string());
}

#[tokio::test]
async fn at_minimum_100_and_before_the_first_round_no_user_qualifies() {
    let database = TestDatabase::with_users(1_000).await;
    let (_program, client) = replica(&database, &[]).await;
    assert_eq!(client.get("/").await.json()["users"], json!([]));
    round(&database, "100").await;
    assert_eq!(client.get("/").await.json()["users"], json!([]));
    round(&database, "0").await;
    assert_eq!(
        client.get("/").await.json()["users"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn an_answer_is_durable_before_it_is_sent() {
    let database = TestDatabase::with_users(10).await;
    // The session that commits records whether it waits for the disk.
    database
        .run(
            "create table commits (synchronous_commit text); \
             grant insert on commits to max_two_api; \
             create function note() returns trigger language plpgsql as $$ begin \
                 insert into commits values (current_setting('synchronous_commit')); \
                 return new; \
             end $$; \
             create trigger note before update on last_query for each row execute function note()",
        )
        .await;
    let (_program, client) = replica(&database, &[]).await;
    client.get("/").await;
    assert_eq!(
        database
            .value::<String>("select min(synchronous_commit) from commits")
            .await,
        "on"
    );
}

/// A trigger advances the chain by one second per message, so that a timestamp identifies its
/// batch. Then answers can be checked one by one from outside, however they were coalesced.
#[tokio::test]
async fn answers_of_two_replicas_form_the_chain_of_answering_one_by_one() {
    const CLIENTS: usize = 24;
    const QUERIES: usize = 150;
    let database = TestDatabase::with_users(10).await;
    database
        .run(
            "create function step() returns trigger language plpgsql as $$ begin \
                 new.previous_at := old.queried_at; \
                 new.queried_at := \
                     coalesce(old.queried_at, '2000-01-01 00:00:00 UTC') + interval '1 second'; \
                 return new; \
             end $$; \
             create trigger step before update on last_query for each row execute function step()",
        )
        .await;
    let (_first, first) = replica(&database, &[]).await;
    let (_second, second) = replica(&database, &[]).await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = if number % 2 == 0 {
            first.clone()
        } else {
            second.clone()
        };
        clients.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..QUERIES {
                let sent = Instant::now();
                let reply = client.get("/").await;
                assert_eq!(reply.status, 200);
                let timestamp = reply.json()["timestamp"].as_str().map(ToOwned::to_owned);
                seen.push((timestamp, sent, Instant::now()));
            }
            seen
        });
    }
    let mut answers = clients.join_all().await.concat();
    let mut times = BTreeMap::<_, usize>::new();
    for (timestamp, ..) in &answers {
        *times.entry(timestamp.clone()).or_default() += 1;
    }
    let batches: i64 = database
        .value(
            "select extract(epoch from queried_at - '2000-01-01 00:00:00 UTC')::bigint \
             from last_query",
        )
        .await;
    assert!(
        batches < i64::try_from(CLIENTS * QUERIES).unwrap(),
        "nothing was coalesced"
    );
    // Exactly one query had no previous one, and the first query of each batch shows the time of
    // the batch before. So every batch's time but the last is shown, and no other time.
    assert_eq!(times.get(&None), Some(&1));
    let shown: Vec<_> = times.keys().flatten().cloned().collect();
    let expected: Vec<String> = {
        let mut session = database.superuser().await;
        sqlx::query_scalar(
            "select to_char( \
                 timestamp '2000-01-01' + number * interval '1 second', 'YYYY-MM-DD HH24:MI:SS' \
             ) \
             from generate_series(1, $1) as number",
        )
        .bind(batches)
        .fetch_all(&mut session)
        .await
        .unwrap()
    };
    // The last batch's time is shown only if that batch had more than one query.
    assert_eq!(shown[..], expected[..shown.len()]);
    assert!(
        expected.len() - shown.len() <= 1,
        "{} batches, {} times",
        expected.len(),
        shown.len()
    );
    // An answer that arrived before a request was sent comes before it in the chain.
    answers.sort();
    // When the last request with an earlier time was sent.
    let mut last_sent = None;
    for same_time in answers.chunk_by(|(one, ..), (other, ..)| one == other) {
        for (_, _, arrived) in same_time {
            assert!(
                Some(*arrived) >= last_sent,
                "a later request was answered with an earlier time"
            );
        }
        let sent = same_time.iter().map(|&(_, sent, _)| sent).max();
        last_sent = last_sent.max(sent);
    }
}

#[tokio::test]
async fn no_response_metric_or_log_line_contains_the_minimum_or_the_password() {
    const CANARY: &str = "-987654321";
    let database = TestDatabase::with_users(100).await;
    database
        .run(&format!(
            "alter table settings drop constraint settings_min_points_is_0_to_100; \
             update settings set min_points = {CANARY}, \
                 first_user_id = 1, first_points = 5, second_user_id = 2, second_points = 5"
        ))
        .await;
    let (mut program, client) =
        replica(&database, &[("RUST_LOG", "trace"), ("LOG_FORMAT", "json")]).await;
    let mut replies = Vec::new();
    for path in [
        "/",
        "/nope",
        "/readyz",
        "/livez",
        "/openapi.json",
        "/",
        "/metrics",
    ] {
        replies.push(client.get(path).await);
    }
    replies.push(client.send(Method::POST, "/").await.unwrap());
    replies.push(admin(&mut program).await.get("/metrics").await);
    let mut all = format!("{replies:?}");
    assert!(all.contains("points"), "answers are among them");
    // The error of a statement that fails after it has read the row.
    database
        .run("alter table last_query add constraint broken check (queried_at is null) not valid")
        .await;
    assert_eq!(client.get("/").await.status, 503);
    assert!(program.stop().await.success());
    all.push_str(&program.output());
    assert!(all.contains("broken"), "the error is in the log");
    let password = database.server.lock().await.password().to_owned();
    for secret in [&CANARY[1..], &password] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[tokio::test]
async fn metrics_are_on_the_admin_listener_only() {
    let database = TestDatabase::with_users(10).await;
    let (mut program, client) = replica(&database, &[]).await;
    for _ in 0..3 {
        client.get("/").await;
    }
    client.get("/nope").await;
    assert_eq!(client.get("/metrics").await.status, 404);
    let admin = admin(&mut program).await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    for line in [
        "max_two_api_responses_total{status=\"200\"} 3",
        "max_two_api_responses_total{status=\"404\"} 2",
        "max_two_api_query_duration_seconds_count 3",
        "max_two_api_batch_queries_count 3",
        "max_two_api_waiting_queries 0",
        "max_two_api_waiting_queries_limit 4096",
        "max_two_api_connections 1",
        "max_two_api_connections_limit 8192",
        "max_two_api_database_up 1",
        "max_two_api_build_info{version=",
    ] {
        let found = text
            .lines()
            .any(|found| found == line || line.ends_with('=') && found.starts_with(line));
        assert!(found, "{line} is not in\n{text}");
    }
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/").await.status, 404);
}

#[tokio::test]
async fn a_replica_is_ready_once_it_has_connected_to_a_database_with_the_right_schema() {
    let database = TestDatabase::new().await;
    database
        .run("alter table settings rename column first_user_id to something_else")
        .await;
    let (_program, client) = replica(&database, &[]).await;
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/").await.status, 503);
    database
        .run("alter table settings rename column something_else to first_user_id")
        .await;
    wait_until_ready(&client).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_socket_passed_by_systemd_takes_the_place_of_listen() {
    let database = TestDatabase::with_users(10).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut command = tokio::process::Command::new("sh");
    // As systemd does it: the socket is file descriptor 3, and LISTEN_PID names its process.
    command
        .args([
            "-c",
            "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" 3<&0",
            env!("CARGO_BIN_EXE_max-two-api"),
        ])
        .env("DATABASE_URL", &database.api)
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DRAIN_DELAY", "0s")
        .stdin(std::os::fd::OwnedFd::from(socket));
    let mut program = Program::spawn(command);
    assert_eq!(program.address("listen").await, address);
    assert_eq!(Client::new(address).get("/").await.status, 200);
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn the_description_is_the_committed_one_and_its_paths_exist() {
    let database = TestDatabase::new().await;
    let (_program, client) = replica(&database, &[]).await;
    let reply = client.get("/openapi.json").await;
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.body, include_bytes!("../../openapi.json").as_slice());
    for path in reply.json()["paths"].as_object().unwrap().keys() {
        assert_ne!(client.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_replica_without_its_grants_is_not_ready() {
    let database = TestDatabase::new().await;
    database
        .run(
            "revoke update on last_query from max_two_api; \
             revoke update (previous_at, queried_at) on last_query from max_two_api",
        )
        .await;
    let (mut program, client) = replica(&database, &[("REQUEST_TIMEOUT", "1s")]).await;
    program.wait_for_event("database_refused").await;
    assert_eq!(client.get("/readyz").await.status, 503);
    assert_eq!(client.get("/").await.status, 503);
    database
        .run("grant update (previous_at, queried_at) on last_query to max_two_api")
        .await;
    wait_until_ready(&client).await;
    assert_eq!(client.get("/").await.status, 200);
}
