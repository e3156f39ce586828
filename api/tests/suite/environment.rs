//! What orchestrators and servers bring: a rotated file, refusals that last, and
//! limits on threads.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::NamedTempFile;
use testkit::{Client, TestDatabase, eventually};
use tokio::time::sleep;

use crate::{end_sessions, start_program};

const ANY_PORT: (&str, &str) = ("LISTEN", "127.0.0.1:0");
const ANY_ADMIN_PORT: (&str, &str) = ("ADMIN_LISTEN", "127.0.0.1:0");

#[tokio::test]
async fn a_rotated_url_is_used_without_a_restart() {
    let database = TestDatabase::new().await;
    let file = NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, &database.api_url).unwrap();
    let url = ("DATABASE_URL_FILE", path);
    let mut replica = start_program(&[], &[ANY_PORT, ANY_ADMIN_PORT, url]);
    replica.wait_for_event("database_connected").await;
    fs::write(path, "canary-password").unwrap();
    end_sessions(&database).await;
    replica.wait_for_event("database_refused").await;
    assert!(replica.output().contains(path), "{}", replica.output());
    // A read of this file does not end, as on a network that is down.
    fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    replica.wait_for_output("did not answer within").await;
    let client = Client::new(replica.address("listen").await);
    assert_eq!(client.get("/livez").await.status, 200);
    fs::remove_file(path).unwrap();
    fs::write(path, &database.api_url).unwrap();
    eventually("it has connected again", async || {
        replica.count_events("database_connected") == 2
    })
    .await;
    assert!(!replica.output().contains("canary-password"));
}

#[tokio::test]
async fn a_wrong_password_is_an_error_and_is_seldom_tried() {
    let database = TestDatabase::new().await;
    let server = database.server.lock().await;
    let wrong = database.api_url.replace(server.password(), "wrong");
    let log = server.folder().join("postgres.log");
    // Other tests write to this log too, but none with a wrong password.
    drop(server);
    let mut replica = start_program(&[], &[ANY_PORT, ANY_ADMIN_PORT, ("DATABASE_URL", &wrong)]);
    replica.wait_for_event("database_refused").await;
    // A failure that can pass would have been tried again ten times by then.
    sleep(Duration::from_secs(3)).await;
    let log = fs::read_to_string(log).unwrap();
    let refusals = log.matches("password authentication failed").count();
    assert_eq!(refusals, 1, "{log}");
}

#[tokio::test]
async fn the_number_of_threads_is_bounded_and_without_any_it_ends_with_one_line() {
    let url = ("DATABASE_URL", "postgres://r:p@127.0.0.1:1/d");
    let start = |limit| start_program(&[], &[ANY_PORT, ANY_ADMIN_PORT, url, limit]);
    let mut bounded = start(("TOKIO_WORKER_THREADS", "64"));
    bounded.wait_for_event("replica_starting").await;
    let threads = fs::read_dir(format!("/proc/{}/task", bounded.id())).unwrap();
    assert!(threads.count() < 16);

    // A stack that no address space has room for, so that no thread can start.
    let stack = (1_u64 << 47).to_string();
    let mut program = start(("RUST_MIN_STACK", &stack));
    assert_eq!(program.wait().await.code(), Some(1), "{}", program.output());
    let output = program.output();
    assert!(
        output.starts_with("error: starting the runtime: "),
        "{output}"
    );
    assert_eq!(output.lines().count(), 1, "{output}");
}
