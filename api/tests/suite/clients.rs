//! Clients that hang up, are slow, stay silent or are too many: their timeouts, the limit of
//! connections, and the other clients, which notice nothing. Over raw TCP connections.

use std::time::{Duration, Instant};

use hyper::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use testkit::{TestDatabase, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::raw_http::{assert_problem, read_until_closed, send_raw};
use crate::{admin, replica, round};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST_GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_clients_that_hang_up_leave_nothing_behind() {
    let database = TestDatabase::with_users(100).await;
    round(&database, "10").await;
    // A query stays in the queue after its client has hung up. There is room for all of them and
    // for one more.
    let (mut program, client) = replica(&database, &[("MAX_WAITING", "20001")]).await;
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
    assert_eq!(next.status, 200, "{}", next.text());
    let in_transaction: i64 = database
        .value(
            "select count(*) from pg_stat_activity \
             where datname = current_database() and application_name = 'max-two-api' \
               and state like 'idle in transaction%'",
        )
        .await;
    assert_eq!(in_transaction, 0);
    eventually("one session is left", async || {
        let sessions: i64 = database
            .value(
                "select count(*) from pg_stat_activity \
                 where datname = current_database() and application_name = 'max-two-api'",
            )
            .await;
        sessions == 1
    })
    .await;
    let admin = admin(&mut program).await;
    eventually("their connections are gone", async || {
        admin
            .metrics()
            .await
            .contains("max_two_api_connections 1\n")
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_slow_with_the_head_gets_408() {
    let database = TestDatabase::new().await;
    let (mut program, client) = replica(&database, &[("HEADER_TIMEOUT", "1s")]).await;
    let address = program.address("listen").await;
    // One sends nothing, one stops in the middle, one goes on sending a byte at a time.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let stopping = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        read_until_closed(&mut stream).await
    });
    let dripping = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        while stream.write_all(b"y").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert_problem(&stopping.await.unwrap(), 408);
    dripping.await.unwrap();
    assert_eq!(read_until_closed(&mut silent).await, "");
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_kept_connection_has_a_timeout_for_the_next_head_and_for_being_idle() {
    let database = TestDatabase::new().await;
    let environment = [("HEADER_TIMEOUT", "1s"), ("IDLE_TIMEOUT", "3s")];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    let mut status_line = [0; 12];
    stream.read_exact(&mut status_line).await.unwrap();
    assert_eq!(&status_line, b"HTTP/1.1 200");
    stream.write_all(b"GET / HT").await.unwrap();
    let response = read_until_closed(&mut stream).await;
    let problem = response.rfind("HTTP/1.1").unwrap();
    assert_problem(&response[problem..], 408);

    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(GET).await.unwrap();
    let response = read_until_closed(&mut idle).await;
    assert!(
        response.starts_with("HTTP/1.1 200") && response.ends_with('}'),
        "{response}"
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected() {
    let database = TestDatabase::new().await;
    let environment = [("WRITE_TIMEOUT", "1s"), ("IDLE_TIMEOUT", "1h")];
    let (mut program, client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let began = Instant::now();
    // It sends requests and reads no response, until the buffers are full and the replica closes
    // the connection.
    let mut written = 0_usize;
    while let Ok(bytes) = stream.write(&GET.repeat(100)).await {
        written += bytes;
    }
    assert!(written > 0);
    // The idle timeout is longer, so it was not the reason.
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn above_the_limit_new_connections_wait_and_open_ones_are_served() {
    let database = TestDatabase::new().await;
    let (mut program, client) = replica(
        &database,
        &[("MAX_CONNECTIONS", "4"), ("HEADER_TIMEOUT", "2s")],
    )
    .await;
    let address = program.address("listen").await;
    assert_eq!(client.get("/").await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // The client's connection, which is open, is served while the others take slots or wait.
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let admin = admin(&mut program).await;
    let metrics = admin.metrics().await;
    assert!(metrics.contains("max_two_api_connections 4\n"), "{metrics}");
    // Each waiting connection is served in the end.
    let response = send_raw(address, LAST_GET).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

#[tokio::test]
async fn four_thousand_silent_connections_do_not_affect_other_clients() {
    let database = TestDatabase::with_users(100).await;
    let (mut program, client) = replica(&database, &[("HEADER_TIMEOUT", "3s")]).await;
    let address = program.address("listen").await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(soft), hard).unwrap();
    let mut silent = Vec::new();
    for _ in 0..4_000 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..200 {
        assert_eq!(client.get("/").await.status, 200);
    }
    for mut stream in silent {
        assert_eq!(read_until_closed(&mut stream).await, "");
    }
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(
            kilobytes < 200_000,
            "{kilobytes} kB for four thousand connections"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_does_not_delay_the_others() {
    let database = TestDatabase::with_users(100).await;
    let (paused, its_client) = replica(&database, &[]).await;
    let (_second, second) = replica(&database, &[]).await;
    let (_third, third) = replica(&database, &[]).await;
    let load = tokio::spawn(async move {
        // It ends when its replica no longer answers.
        while its_client.send(Method::GET, "/").await.is_ok() {}
    });
    for _ in 0..20 {
        assert_eq!(second.get("/").await.status, 200);
    }
    paused.signal(Signal::SIGSTOP);
    let began = Instant::now();
    for _ in 0..300 {
        assert_eq!(second.get("/").await.status, 200);
        assert_eq!(third.get("/").await.status, 200);
    }
    // If the paused replica still held the row's lock, each request would have timed out.
    assert!(began.elapsed() < Duration::from_mins(1));
    paused.signal(Signal::SIGCONT);
    load.abort();
}

#[tokio::test]
async fn a_few_idle_connections_are_closed_when_others_wait() {
    const LIMIT: usize = 20;
    let database = TestDatabase::new().await;
    let environment = [
        ("MAX_CONNECTIONS", &*LIMIT.to_string()),
        ("IDLE_TIMEOUT", "1h"),
    ];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let mut idle = Vec::new();
    for _ in 0..LIMIT {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        // The beginning of the response has arrived, so the connection is soon idle.
        stream.read_exact(&mut [0; 12]).await.unwrap();
        idle.push(stream);
    }
    let response = send_raw(address, LAST_GET).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let mut still_open = 0;
    for mut stream in idle {
        // Writing fails, or gets no response, on a connection that was closed.
        let _ = stream.write_all(LAST_GET).await;
        still_open += usize::from(
            read_until_closed(&mut stream)
                .await
                .contains("HTTP/1.1 200"),
        );
    }
    assert!(
        still_open >= LIMIT / 2,
        "{still_open} of {LIMIT} are still open"
    );
}

#[tokio::test]
async fn a_head_that_begins_right_behind_another_request_has_a_timeout_too() {
    let database = TestDatabase::new().await;
    let environment = [("HEADER_TIMEOUT", "1s"), ("IDLE_TIMEOUT", "1h")];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET / HT")
        .await
        .unwrap();
    let response = read_until_closed(&mut stream).await;
    let (_, problem) = response.split_once("ok\n").unwrap();
    assert_problem(problem, 408);
}

#[tokio::test]
async fn no_408_is_written_into_a_response_that_is_not_read() {
    let database = TestDatabase::new().await;
    let environment = [("HEADER_TIMEOUT", "1s"), ("WRITE_TIMEOUT", "4s")];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let admin = admin(&mut program).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Responses fill the buffers in between, while the next head has begun.
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1_000);
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream.write_all(b"GET / HT").await.unwrap();
    let open = async || {
        !admin
            .metrics()
            .await
            .contains("max_two_api_connections 0\n")
    };
    eventually("the connection is open", open).await;
    eventually("the replica has given up", async || {
        admin.metrics().await.contains("status=\"408\"") || !open().await
    })
    .await;
    let response = read_until_closed(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let end = &response[response.len().saturating_sub(500)..];
    assert!(!response.contains("HTTP/1.1 408"), "it ends in {end}");
}

#[tokio::test]
async fn an_empty_line_between_requests_begins_no_request() {
    let database = TestDatabase::new().await;
    let environment = [("HEADER_TIMEOUT", "1s"), ("IDLE_TIMEOUT", "3s")];
    let (mut program, _client) = replica(&database, &environment).await;
    let address = program.address("listen").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for empty_lines in ["", "\r\n", "\n\r\n"] {
        let request = format!("{empty_lines}GET /livez HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"ok\n") {
            response.push(stream.read_u8().await.unwrap());
        }
        assert!(response.starts_with(b"HTTP/1.1 200"));
        stream.write_all(b"\r\n").await.unwrap();
    }
    // It ends as an idle connection does.
    assert_eq!(read_until_closed(&mut stream).await, "");
}

#[tokio::test]
async fn a_chunked_body_that_does_not_arrive_gets_408() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = replica(&database, &[("HEADER_TIMEOUT", "1s")]).await;
    let mut stream = TcpStream::connect(program.address("listen").await)
        .await
        .unwrap();
    let head = b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    // The second request's body is awaited with nothing read since the first response.
    stream
        .write_all(&[head, &b"0\r\n\r\n"[..], head].concat())
        .await
        .unwrap();
    let response = read_until_closed(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let problem = response.rfind("HTTP/1.1").unwrap();
    assert_problem(&response[problem..], 408);
}

#[tokio::test]
async fn idle_connections_are_kept_while_no_other_waits_for_a_slot() {
    const LIMIT: usize = 3;
    let database = TestDatabase::new().await;
    for open in [LIMIT - 1, LIMIT] {
        let environment = [
            ("MAX_CONNECTIONS", &*LIMIT.to_string()),
            ("IDLE_TIMEOUT", "4s"),
        ];
        let (mut program, _client) = replica(&database, &environment).await;
        let address = program.address("listen").await;
        let mut idle = JoinSet::new();
        for _ in 0..open {
            idle.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(GET).await.unwrap();
                let began = Instant::now();
                read_until_closed(&mut stream).await;
                began.elapsed()
            });
        }
        let kept = idle.join_all().await;
        // Nothing but the idle timeout has closed them.
        assert!(
            kept.iter().all(|&kept| kept >= Duration::from_secs(4)),
            "{open} of {LIMIT}: {kept:?}"
        );
    }
}
