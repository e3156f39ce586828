//! The sockets that a replica listens on: passed by systemd or bound, of both IP families.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use tempfile::NamedTempFile;
use testkit::{Client, TEST_TIMEOUT, TestDatabase, eventually};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::start_program;

/// A replica to which systemd passes sockets of these names (`LISTEN_FDNAMES`), their addresses,
/// and its log.
fn replica_with_sockets(
    database: &TestDatabase,
    names: &str,
) -> (Child, Vec<SocketAddr>, NamedTempFile) {
    let sockets: Vec<_> = names
        .split(':')
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let address = |socket: &TcpListener| socket.local_addr().unwrap();
    let addresses = sockets.iter().map(address).collect();
    let socket = |index: usize| {
        let socket = sockets.get(index).unwrap_or(&sockets[0]);
        OwnedFd::from(socket.try_clone().unwrap())
    };
    let log = NamedTempFile::new().unwrap();
    // As systemd does it: the sockets are the file descriptors from 3 on, and LISTEN_PID names
    // their process.
    let replica = Command::new("sh")
        .args([
            "-c",
            "exec 3<&0 4<&1 5<&2 >\"$1\" 2>&1; LISTEN_PID=$$ exec \"$0\"",
        ])
        .args([env!("CARGO_BIN_EXE_max-two-api").as_ref(), log.path()])
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names)
        .env("DATABASE_URL", &database.api_url)
        .stdin(socket(0))
        .stdout(socket(1))
        .stderr(socket(2))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (replica, addresses, log)
}

async fn assert_public(address: SocketAddr) {
    let client = Client::new(address);
    let answered = eventually("it answers", async || client.get("/").await.status == 200);
    // A connection that is never accepted has no end.
    timeout(TEST_TIMEOUT, answered).await.unwrap();
    assert_eq!(client.get("/metrics").await.status, 404);
}

async fn assert_admin(address: SocketAddr) {
    assert_eq!(Client::new(address).get("/metrics").await.status, 200);
}

#[tokio::test]
async fn sockets_passed_by_systemd_are_known_by_their_names() {
    let database = TestDatabase::new().await;
    let (_replica, addresses, log) = replica_with_sockets(&database, "admin:http:http");
    assert_public(addresses[1]).await;
    assert_public(addresses[2]).await;
    assert_admin(addresses[0]).await;
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("sockets_unnamed"), "{log}");

    // Until the next release: as of a unit of the previous one, which names no sockets.
    let unit = "max-two-api.socket";
    let (_replica, addresses, log) = replica_with_sockets(&database, &format!("{unit}:{unit}"));
    assert_public(addresses[0]).await;
    assert_admin(addresses[1]).await;
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("sockets_unnamed"), "{log}");

    for names in ["http:admin:canary", "canary.socket:canary.socket:canary"] {
        let (mut replica, _, log) = replica_with_sockets(&database, names);
        let status = timeout(TEST_TIMEOUT, replica.wait()).await.unwrap();
        assert_eq!(status.unwrap().code(), Some(1), "{names}");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("canary"), "{log}");
    }
}

const NO_DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://nobody@localhost/nothing");

#[tokio::test]
async fn all_addresses_of_ipv6_are_those_of_ipv4_too() {
    let (listen, admin_listen) = (("LISTEN", "[::]:0"), ("ADMIN_LISTEN", "[::]:0"));
    let mut program = start_program(&[], &[NO_DATABASE, listen, admin_listen]);
    for name in ["listen", "admin"] {
        let port = program.address(name).await.port();
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let client = Client::new(SocketAddr::new(ip, port));
            assert_eq!(client.get("/livez").await.status, 200, "{name} {ip}");
        }
    }
}

// The filter shows that the program logs under its own target.
#[tokio::test]
async fn a_replica_that_cannot_listen_logs_why_and_exits_with_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (listen, filter) = (("LISTEN", &*address), ("RUST_LOG", "api=info"));
    let mut program = start_program(&[], &[NO_DATABASE, listen, filter]);
    assert_eq!(program.wait().await.code(), Some(1));
    assert_eq!(program.count_events("replica_failed"), 1);
    assert!(program.output().contains(&address), "{}", program.output());
}
