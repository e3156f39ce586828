//! Clients that hang up, are slow, stay silent, do not read or are too many: their timeouts, the
//! limit of connections, and the other clients, which notice nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::{TestDatabase, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::raw::{GET, LAST_GET, query, read_until_closed, send_raw};
use crate::{round, start_replica};

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_clients_that_hang_up_leave_nothing_behind() {
    let database = TestDatabase::with_users(100).await;
    round(&database, "10").await;
    // A query stays in the queue after its client has hung up. There is room for all of them and
    // for one more.
    let (mut program, client) = start_replica(&database, &[("MAX_WAITING", "20001")]).await;
    let address = program.address("listen").await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        clients.spawn(async move {
            for number in 0..1_000 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(GET).await.unwrap();
                // Most close with a reset, so that their ports do not stay in TIME_WAIT.
                if number % 10 > 0 {
                    stream.set_zero_linger().unwrap();
                }
            }
        });
    }
    clients.join_all().await;
    let next = client.get("/").await;
    assert_eq!(next.status, 200, "{}", next.body);
    let states = "select array_agg(state) from pg_stat_activity \
         where datname = current_database() and application_name = 'max-two-api'";
    eventually("one session is left, outside a transaction", async || {
        database.value::<Vec<String>>(states).await == ["idle"]
    })
    .await;
}

/// Acts as a bad client of one of four kinds until the replica closes the connection. Returns how
/// long that took.
async fn misbehave(kind: usize, address: SocketAddr) -> Duration {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let connected = Instant::now();
    match kind {
        // It sends nothing,
        0 => {}
        // stops in the middle of a head,
        1 => stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap(),
        // goes on sending a byte at a time,
        2 => {
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
            while stream.write_all(b"y").await.is_ok() {
                sleep(Duration::from_millis(500)).await;
            }
        }
        // or sends requests until the buffers are full, and reads no response.
        _ => {
            let request = b"GET /openapi.json HTTP/1.1\r\n\r\n";
            while stream.write_all(request).await.is_ok() {}
        }
    }
    if kind < 3 {
        assert_eq!(read_until_closed(&mut stream).await, "");
    }
    connected.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "the kernel has no timeout of what is not read"
)]
async fn four_thousand_bad_clients_are_disconnected_and_good_ones_answered() {
    let database = TestDatabase::with_users(100).await;
    round(&database, "10").await;
    let (mut program, client) = start_replica(&database, &[]).await;
    let address = program.address("listen").await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(soft), hard).unwrap();
    let mut bad_clients = JoinSet::new();
    for number in 0..4_000 {
        // One in eighty does not read.
        let kind = if number % 80 == 0 { 3 } else { number % 3 };
        bad_clients.spawn(async move { (kind, misbehave(kind, address).await) });
    }
    while !bad_clients.is_empty() {
        assert_eq!(client.get("/").await.status, 200);
        while let Some(bad_client) = bad_clients.try_join_next() {
            let (kind, took) = bad_client.unwrap();
            assert!(took < Duration::from_secs(12), "{kind}: {took:?}");
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"))
        .unwrap();
    let kilobytes: u64 = peak.trim().parse().unwrap();
    assert!(kilobytes < 200_000, "{kilobytes} kB for four thousand");
}

#[tokio::test]
async fn a_kept_connection_has_a_timeout_for_the_next_head_and_for_being_idle() {
    let database = TestDatabase::new().await;
    for (header_timeout, idle_timeout, next) in [("2s", "1h", "GET / HT"), ("1h", "2s", "")] {
        let environment = [
            ("HEADER_TIMEOUT", header_timeout),
            ("IDLE_TIMEOUT", idle_timeout),
        ];
        let (mut program, _client) = start_replica(&database, &environment).await;
        let began = Instant::now();
        let address = program.address("listen").await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        query(&mut stream).await;
        stream.write_all(next.as_bytes()).await.unwrap();
        assert_eq!(read_until_closed(&mut stream).await, "");
        // It was not closed early, as when others wait for a slot.
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
    }
}

#[tokio::test]
async fn at_the_limit_of_connections_a_few_idle_ones_give_way() {
    const LIMIT: usize = 20;
    let database = TestDatabase::new().await;
    let environment = [
        ("MAX_CONNECTIONS", &*LIMIT.to_string()),
        ("IDLE_TIMEOUT", "1h"),
    ];
    let (mut program, _client) = start_replica(&database, &environment).await;
    let address = program.address("listen").await;
    let mut idle = Vec::new();
    for _ in 0..LIMIT {
        let mut stream = TcpStream::connect(address).await.unwrap();
        query(&mut stream).await;
        idle.push(stream);
    }
    let response = send_raw(address, LAST_GET).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let mut still_open = 0;
    for mut stream in idle {
        // Writing fails, or gets no response, on a connection that was closed.
        let _ = stream.write_all(LAST_GET).await;
        let response = read_until_closed(&mut stream).await;
        still_open += usize::from(response.contains("HTTP/1.1 200"));
    }
    assert!(
        (LIMIT / 2..LIMIT).contains(&still_open),
        "{still_open} of {LIMIT} are still open"
    );
}
