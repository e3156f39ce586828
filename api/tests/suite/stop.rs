//! How a replica stops: by one signal, by two, with connections open, queued or without end, and
//! without a database.

use hyper::Method;
use nix::sys::signal::Signal;
use testkit::{Client, TestDatabase, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{GET, kept_connection, read_until_closed};
use crate::{admin, replica, stop_at_once};

async fn wait_until_draining(client: &Client) {
    eventually("it drains", async || {
        client.get("/readyz").await.status == 503
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_drains_then_closes_connections_then_ends() {
    let database = TestDatabase::with_users(10).await;
    let environment = [
        ("DRAIN_DELAY", "5s"),
        ("CLOSE_TIMEOUT", "1h"),
        ("IDLE_TIMEOUT", "1h"),
    ];
    let (mut program, client) = replica(&database, &environment).await;
    let mut idle = kept_connection(program.address("listen").await).await;
    let admin = admin(&mut program).await;
    assert_eq!(client.get("/").await.status, 200);
    program.signal(Signal::SIGTERM);
    wait_until_draining(&client).await;
    assert_eq!(admin.get("/readyz").await.status, 503);
    assert_eq!(admin.get("/livez").await.status, 200);
    // It still serves, and keeps its connections open.
    let reply = client.get("/").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("connection")),
        (200, "")
    );
    // After the delay each response closes its connection. Until then none fails.
    loop {
        let reply = client.send(Method::GET, "/").await.unwrap();
        assert_eq!(reply.status, 200);
        if reply.header("connection") == "close" {
            break;
        }
    }
    // An idle connection is closed later, because its next request may be on its way.
    idle.write_all(GET).await.unwrap();
    let last = read_until_closed(&mut idle).await;
    assert!(last.contains("connection: close\r\n"), "{last}");
    // Health checks are answered as long as the program runs.
    if let Ok(reply) = admin.send(Method::GET, "/livez").await {
        assert_eq!(reply.status, 200);
    }
    assert!(program.wait().await.success());
    assert_eq!(program.count_events("replica_stopped"), 1);
}

#[tokio::test]
async fn connections_that_are_queued_at_a_stop_are_served() {
    let database = TestDatabase::new().await;
    let environment = [("MAX_CONNECTIONS", "1"), ("CLOSE_TIMEOUT", "1h")];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    // It has the only slot.
    let mut first = kept_connection(address).await;
    let mut queued = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        queued.push(stream);
    }
    program.signal(Signal::SIGTERM);
    for mut stream in queued {
        let response = read_until_closed(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    }
    assert_eq!(read_until_closed(&mut first).await, "");
    assert!(program.wait().await.success());
}

/// A supervisor may stop its process group and then each process.
#[tokio::test]
async fn one_stop_that_arrives_twice_counts_once_and_a_second_one_stops_at_once() {
    let database = TestDatabase::with_users(10).await;
    let environment = [("DRAIN_DELAY", "1h"), ("RUST_LOG", "debug")];
    let (mut program, client) = replica(&database, &environment).await;
    program.signal(Signal::SIGTERM);
    program.signal(Signal::SIGINT);
    program.wait_for_event("stop_repeated").await;
    wait_until_draining(&client).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(stop_at_once(&mut program).await.success());
}

#[tokio::test]
async fn a_shutdown_waits_for_no_silent_client_and_no_database() {
    let database = TestDatabase::new().await;
    let nowhere = database.api.replace(database.name(), "nowhere");
    let environment = [
        ("DATABASE_URL", &*nowhere),
        ("REQUEST_TIMEOUT", "1s"),
        ("CLOSE_TIMEOUT", "1s"),
        ("HEADER_TIMEOUT", "1h"),
    ];
    let (mut program, client) = replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 503);
    let address = program.address("listen").await;
    let silent = TcpStream::connect(address).await.unwrap();
    assert!(program.stop().await.success());
    drop(silent);
}
