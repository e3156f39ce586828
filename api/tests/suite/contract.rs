//! What a replica's clients and operators rely on: answers, their headers and order, secrecy and
//! metrics.

use hyper::Method;
use serde_json::{Value, json};
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

use crate::raw::send_raw;
use crate::{admin_client, lock_last_query, round, start_replica};

#[tokio::test]
async fn an_answer_is_two_users_in_order_and_the_time_of_the_previous_query() {
    let database = TestDatabase::with_users(1_000).await;
    round(&database, "40").await;
    let (mut program, client) = start_replica(&database, &[]).await;
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
    for user in users {
        assert!(user["points"].as_i64() > Some(40), "{user}");
        assert_eq!(user.as_object().unwrap().len(), 2, "{user}");
    }

    let previous: String = database
        .value(
            "select to_char(queried_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
             from last_query",
        )
        .await;
    let second = client.get("/?x=y").await.json();
    assert_eq!(second, json!({"users": users, "timestamp": previous}));
    // HEAD is the same without the body.
    let head = client.send(Method::HEAD, "/").await.unwrap();
    assert_eq!((head.status, head.body.len()), (first.status, 0));
    let length = second.to_string().len();
    assert_eq!(head.header("content-length"), length.to_string());
    assert!(program.stop().await.success());
}

/// A trigger moves the chain's time by one second per message, so that a timestamp tells which
/// message answered.
#[tokio::test]
async fn queries_of_one_message_are_answered_as_one_by_one() {
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
    let (mut program, client) = start_replica(&database, &[]).await;
    let admin = admin_client(&mut program).await;
    assert_eq!(client.get("/").await.json()["timestamp"], Value::Null);
    let obstacle = lock_last_query(&database).await;
    let mut queries = JoinSet::new();
    let mut send = || {
        let client = client.clone();
        queries.spawn(async move { client.get("/").await.json()["timestamp"].take() });
    };
    send();
    database.wait_for_session("wait_event_type = 'Lock'").await;
    for _ in 0..3 {
        send();
    }
    eventually("the others wait for the next message", async || {
        let metrics = admin.get("/metrics").await.body;
        metrics.contains("max_two_api_waiting_queries 3\n")
    })
    .await;
    drop(obstacle);
    let mut timestamps = queries.join_all().await;
    timestamps.sort_by_key(Value::to_string);
    let expected = [1, 2, 3, 3].map(|second| json!(format!("2000-01-01 00:00:0{second}")));
    assert_eq!(timestamps, expected);
}

#[tokio::test]
async fn no_response_metric_or_log_line_contains_the_minimum_or_the_password() {
    const CANARY: &str = "-987654321";
    let database = TestDatabase::with_users(100).await;
    database
        .run(&format!(
            "alter table settings drop constraint settings_min_points_is_0_to_100; \
             update settings set min_points = {CANARY}, \
                 shown_users = '[{{\"id\": 1, \"points\": 5}}]'"
        ))
        .await;
    let (mut program, client) =
        start_replica(&database, &[("RUST_LOG", "trace"), ("LOG_FORMAT", "json")]).await;
    let mut replies = Vec::new();
    for path in ["/", "/nope", "/readyz", "/openapi.json", "/metrics"] {
        replies.push(client.get(path).await);
    }
    replies.push(client.send(Method::POST, "/").await.unwrap());
    replies.push(admin_client(&mut program).await.get("/metrics").await);
    let mut all = format!("{replies:?}");
    assert!(all.contains("points"), "answers are among them");
    // The error of the statement that reads the row of the minimum.
    database
        .run(
            "alter table settings disable trigger user, \
                 drop constraint settings_shown_users_have_an_id; \
             update settings set shown_users = '[{\"id\": \"broken\", \"points\": 5}]'",
        )
        .await;
    assert_eq!(client.get("/").await.status, 503);
    assert!(program.stop().await.success());
    all.push_str(&program.output());
    assert!(all.contains("invalid type"), "the error is in the log");
    let password = database.server.lock().await.password().to_owned();
    for secret in [&CANARY[1..], &password] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
}

#[tokio::test]
async fn metrics_are_on_the_admin_listener_only() {
    let database = TestDatabase::with_users(10).await;
    let (mut program, client) = start_replica(&database, &[]).await;
    for _ in 0..3 {
        client.get("/").await;
    }
    client.get("/nope").await;
    assert_eq!(client.get("/metrics").await.status, 404);
    let admin = admin_client(&mut program).await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    // Prometheus' text format, the default: it has no infos, and a counter's TYPE ends in `_total`.
    let content_type = metrics.header("content-type");
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let text = &metrics.body;
    for line in [
        "# TYPE max_two_api_responses_total counter",
        "# TYPE max_two_api_build_info gauge",
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
    // As Prometheus asks.
    let get = b"GET /metrics HTTP/1.0\r\n\
        accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n\r\n";
    let open_metrics = send_raw(program.address("admin").await, get).await;
    for part in [
        "application/openmetrics-text",
        "# TYPE max_two_api_build info\n",
        "# EOF\n",
    ] {
        assert!(open_metrics.contains(part), "{open_metrics}");
    }
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/").await.status, 404);
}
