//! What orchestrators and servers bring: empty variables, a rotated file, refusals that last, and
//! limits on threads.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::NamedTempFile;
use testkit::{TestDatabase, eventually};

use crate::program;

const NO_DATABASE: (&str, &str) = ("DATABASE_URL_FILE", "/nowhere");

#[tokio::test]
async fn a_value_is_understood_or_named_with_an_example() {
    for (name, value, named) in [
        ("LISTEN", "", "DATABASE_URL_FILE /nowhere"),
        ("REUSE_PORT", "", "DATABASE_URL_FILE /nowhere"),
        ("LOG_FORMAT", "", "DATABASE_URL_FILE /nowhere"),
        ("REQUEST_TIMEOUT", "", "DATABASE_URL_FILE /nowhere"),
        ("DATABASE_URL", "", "DATABASE_URL_FILE /nowhere"),
        ("REUSE_PORT", "1", "DATABASE_URL_FILE /nowhere"),
        ("REUSE_PORT", "off", "DATABASE_URL_FILE /nowhere"),
        ("REUSE_PORT", "maybe", "--reuse-port"),
        ("LISTEN", "localhost:4000", "such as 127.0.0.1:4000"),
        ("ADMIN_LISTEN", ":9000", "such as 127.0.0.1:4000"),
    ] {
        let mut program = program(&[], &[NO_DATABASE, (name, value)]);
        assert_eq!(program.wait().await.code(), Some(2), "{name}={value}");
        let output = program.output();
        assert!(output.contains(named), "{name}={value}: {output}");
        assert_eq!(output.lines().count(), 1, "{name}={value}: {output}");
    }
}

#[tokio::test]
async fn a_rotated_url_is_used_without_a_restart() {
    let database = TestDatabase::new().await;
    let file = NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, &database.api).unwrap();
    let mut replica = program(
        &[],
        &[
            ("DATABASE_URL_FILE", path),
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
        ],
    );
    replica.wait_for_event("database_connected").await;
    fs::write(path, "canary-password").unwrap();
    database
        .run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'max_two_api' and datname = current_database()")
        .await;
    replica.wait_for_event("database_refused").await;
    fs::write(path, &database.api).unwrap();
    eventually("it has connected again", async || {
        replica.count_events("database_connected") == 2
    })
    .await;
    assert!(!replica.output().contains("canary-password"));
}

/// A server that refuses every session with this SQLSTATE, and the number of its refusals.
fn refusing_server(code: &str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fields = format!("SFATAL\0VFATAL\0C{code}\0Mrefused\0\0");
    let length = u32::try_from(fields.len() + 4).unwrap();
    let response = [&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat();
    let refusals = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refusals);
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(&response);
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (
        format!("postgres://r:p@{address}/d?sslmode=disable"),
        refusals,
    )
}

#[tokio::test]
async fn a_refusal_that_lasts_is_repeated_far_less_often_than_one_that_passes() {
    let (wrong_password, lasting) = refusing_server("28P01");
    let (starting, passing) = refusing_server("57P03");
    let replica = |url: &str| {
        let addresses = [("LISTEN", "127.0.0.1:0"), ("ADMIN_LISTEN", "127.0.0.1:0")];
        program(&[], &[addresses[0], addresses[1], ("DATABASE_URL", url)])
    };
    let _replicas = [replica(&wrong_password), replica(&starting)];
    eventually(
        "both were refused, one of them again and again",
        async || lasting.load(Ordering::Relaxed) > 0 && passing.load(Ordering::Relaxed) >= 20,
    )
    .await;
    let refusals = (
        lasting.load(Ordering::Relaxed),
        passing.load(Ordering::Relaxed),
    );
    assert!(refusals.0 * 5 <= refusals.1, "{refusals:?}");
}

#[tokio::test]
async fn the_number_of_threads_is_bounded_and_without_any_it_ends_with_one_line() {
    let url = ("DATABASE_URL", "postgres://r:p@127.0.0.1:1/d");
    let common = [
        url,
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let environment = [&common[..], &[("TOKIO_WORKER_THREADS", "64")]].concat();
    let mut bounded = program(&[], &environment);
    bounded.wait_for_event("replica_starting").await;
    let threads = fs::read_dir(format!("/proc/{}/task", bounded.id())).unwrap();
    assert!(threads.count() < 16);

    // A stack that no address space has room for, so that no thread can start.
    let stack = (1_u64 << 47).to_string();
    let environment = [&common[..], &[("RUST_MIN_STACK", &*stack)]].concat();
    let mut program = program(&[], &environment);
    assert_eq!(program.wait().await.code(), Some(1), "{}", program.output());
    let output = program.output();
    assert!(
        output.starts_with("error: starting the runtime: "),
        "{output}"
    );
    assert_eq!(output.lines().count(), 1, "{output}");
}
