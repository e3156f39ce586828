//! How a replica stops: by one signal, by two, with connections open, queued or without end, and
//! without a database.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use testkit::{Client, TestDatabase, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::raw::{GET, query, read_until_closed};
use crate::{start_program, start_replica, wait_until_ready};

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
        ("DRAIN_DELAY", "10s"),
        ("CLOSE_TIMEOUT", "30s"),
        ("IDLE_TIMEOUT", "1h"),
    ];
    let (mut program, client) = start_replica(&database, &environment).await;
    let check_health = async |address: String| {
        let mut check = start_program(&["healthcheck"], &[("ADMIN_LISTEN", &address)]);
        (check.wait().await.code(), check.output())
    };
    wait_until_ready(&client).await;
    let admin_address = program.address("admin").await.to_string();
    assert_eq!(check_health(admin_address.clone()).await.0, Some(0));
    program.signal(Signal::SIGTERM);
    wait_until_draining(&client).await;
    let (status, output) = check_health(admin_address).await;
    assert_eq!(status, Some(1), "{output}");
    assert!(output.starts_with("/readyz: "), "{output}");
    // It still serves, and keeps its connections open. After the delay each ends with its next
    // response. No request fails until then, though the connections are mostly idle.
    let address = program.address("listen").await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let is_last = |response: String| response.contains("connection: close\r\n");
            assert!(!is_last(query(&mut stream).await));
            while !is_last(query(&mut stream).await) {
                sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(read_until_closed(&mut stream).await, "");
        });
    }
    clients.join_all().await;
    assert!(program.wait().await.success());
    assert_eq!(program.count_events("replica_stopped"), 1);
}

#[tokio::test]
async fn connections_that_are_queued_at_a_stop_are_served() {
    let database = TestDatabase::new().await;
    let environment = [("MAX_CONNECTIONS", "1"), ("CLOSE_TIMEOUT", "1h")];
    let (mut program, _client) = start_replica(&database, &environment).await;
    let address = program.address("listen").await;
    // It has the only slot.
    let mut first = TcpStream::connect(address).await.unwrap();
    query(&mut first).await;
    let mut queued = Vec::new();
    // More than tokio accepts at once.
    for _ in 0..300 {
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
    let (mut program, client) = start_replica(&database, &environment).await;
    program.signal(Signal::SIGTERM);
    program.signal(Signal::SIGINT);
    program.wait_for_event("stop_repeated").await;
    wait_until_draining(&client).await;
    assert_eq!(client.get("/").await.status, 200);
    // Only a signal that comes a second after the first stop counts as another one.
    let id = program.id();
    let signals = async {
        loop {
            // It fails once the replica has ended.
            let _ = kill(id, Signal::SIGTERM);
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        status = program.wait() => assert!(status.success()),
        () = signals => unreachable!("it signals forever"),
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_no_silent_client_and_no_database() {
    let database = TestDatabase::new().await;
    let nowhere = database.api_url.replace(&database.name, "nowhere");
    let environment = [
        ("DATABASE_URL", &*nowhere),
        ("REQUEST_TIMEOUT", "1s"),
        ("CLOSE_TIMEOUT", "1s"),
        ("HEADER_TIMEOUT", "1h"),
    ];
    let (mut program, client) = start_replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 503);
    let address = program.address("listen").await;
    let silent = TcpStream::connect(address).await.unwrap();
    assert!(program.stop().await.success());
    drop(silent);
}
