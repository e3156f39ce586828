//! How a replica stops: by one signal, by two, with connections open, and without a database.

use hyper::Method;
use nix::sys::signal::Signal;
use testkit::{Client, TestDatabase, eventually};
use tokio::net::TcpStream;

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
    let (mut program, client) =
        replica(&database, &[("DRAIN_DELAY", "5s"), ("CLOSE_TIMEOUT", "1h")]).await;
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
    // After the delay each response closes its connection. New connections are still served.
    let mut closed = false;
    while let Ok(reply) = client.send(Method::GET, "/").await {
        assert_eq!(reply.status, 200);
        if reply.header("connection") == "close" {
            closed = true;
            break;
        }
    }
    assert!(closed, "the connection ended without `Connection: close`");
    // Health checks are answered as long as the program runs.
    if let Ok(reply) = admin.send(Method::GET, "/livez").await {
        assert_eq!(reply.status, 200);
    }
    assert!(program.wait().await.success());
    assert_eq!(program.count_events("replica_stopped"), 1);
}

#[tokio::test]
async fn a_second_signal_stops_the_replica_at_once() {
    let database = TestDatabase::with_users(10).await;
    let (mut program, client) = replica(&database, &[("DRAIN_DELAY", "1h")]).await;
    assert_eq!(client.get("/").await.status, 200);
    program.signal(Signal::SIGTERM);
    wait_until_draining(&client).await;
    assert!(stop_at_once(&mut program).await.success());
}

/// As when a supervisor stops its process group and then each process.
#[tokio::test]
async fn one_stop_that_arrives_twice_counts_once() {
    let database = TestDatabase::with_users(10).await;
    let environment = [("DRAIN_DELAY", "1h"), ("RUST_LOG", "debug")];
    let (mut program, client) = replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 200);
    program.signal(Signal::SIGTERM);
    program.signal(Signal::SIGINT);
    program.wait_for_event("stop_repeated").await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(stop_at_once(&mut program).await.success());
}

#[tokio::test]
async fn open_connections_have_a_deadline() {
    let database = TestDatabase::with_users(10).await;
    let environment = [("CLOSE_TIMEOUT", "1s"), ("HEADER_TIMEOUT", "1h")];
    let (mut program, client) = replica(&database, &environment).await;
    assert_eq!(client.get("/").await.status, 200);
    let address = program.address("listen").await;
    let silent = TcpStream::connect(address).await.unwrap();
    assert!(program.stop().await.success());
    drop(silent);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_database_that_is_away() {
    let database = TestDatabase::new().await;
    let nowhere = database.api.replace(database.name(), "nowhere");
    let (mut program, client) = replica(
        &database,
        &[("DATABASE_URL", &nowhere), ("REQUEST_TIMEOUT", "1s")],
    )
    .await;
    assert_eq!(client.get("/").await.status, 503);
    assert!(program.stop().await.success());
}
