//! Logs that cannot be written, and logs that nobody reads.

use std::fs::File;
use std::io::pipe;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use serde_json::Value;
use testkit::{Client, Program, TEST_TIMEOUT, TestDatabase, eventually, free_address};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::time::timeout;

use crate::program;

/// A replica that logs to this file.
fn replica_with_log(
    database: &TestDatabase,
    log: impl Into<OwnedFd>,
    environment: &[(&str, &str)],
) -> Program {
    let mut command = Command::new("sh");
    // `Program` captures standard output and error, so the log's file is passed as standard input.
    command
        .args([
            "-c",
            "exec \"$0\" 2>&0 0</dev/null",
            env!("CARGO_BIN_EXE_max-two-api"),
        ])
        .env("DATABASE_URL", &database.api)
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DRAIN_DELAY", "0s")
        .env("REQUEST_TIMEOUT", "50s")
        .env("LOG_FORMAT", "json")
        .env("RUST_LOG", "trace")
        .envs(environment.iter().copied())
        .stdin(log.into());
    Program::spawn(command)
}

async fn dropped_lines(admin: &Client) -> u64 {
    let metrics = admin.metrics().await;
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("max_two_api_log_lines_dropped_total "))
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn requests_do_not_wait_for_the_reader_of_the_log() {
    let database = TestDatabase::with_users(10).await;
    let (reader, writer) = pipe().unwrap();
    let mut program = replica_with_log(&database, writer, &[("LISTEN", "127.0.0.1:0")]);
    let reader = Receiver::from_owned_fd(reader.into()).unwrap();
    let mut log = BufReader::new(reader).lines();
    let mut next_line = async || -> Value {
        let line = timeout(TEST_TIMEOUT, log.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    };
    let starting = loop {
        let line = next_line().await;
        if line["event"] == "replica_starting" {
            break line;
        }
    };
    let client = |field: &str| Client::new(starting[field].as_str().unwrap().parse().unwrap());
    let (public, admin) = (client("listen"), client("admin"));

    // Nobody reads the log from here on, until the pipe and the queue are full.
    let fill = async {
        loop {
            for _ in 0..500 {
                assert_eq!(public.get("/").await.status, 200);
            }
            if dropped_lines(&admin).await > 0 {
                break;
            }
        }
    };
    timeout(TEST_TIMEOUT, fill)
        .await
        .expect("requests are answered while nobody reads the log");

    // A reader that resumes finds a line that says how many are missing.
    let dropped = loop {
        let line = next_line().await;
        if line["event"] == "log_lines_dropped" {
            break line;
        }
    };
    assert!(dropped["total"].as_u64() > Some(0), "{dropped}");
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_no_replica() {
    let database = TestDatabase::with_users(10).await;
    let (_, broken_pipe) = pipe().unwrap();
    let full: OwnedFd = File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into();
    for log in [full, broken_pipe.into()] {
        let (public, admin) = (free_address(), free_address());
        let environment = [
            ("LISTEN", &*public.to_string()),
            ("REUSE_PORT", "true"),
            ("ADMIN_LISTEN", &*admin.to_string()),
        ];
        let mut program = replica_with_log(&database, log, &environment);
        let client = Client::new(public);
        let answered = eventually("it answers", async || {
            client
                .try_get("/")
                .await
                .is_some_and(|reply| reply.status == 200)
        });
        tokio::select! {
            () = answered => {}
            status = program.wait() => panic!("it ended: {status}"),
        }
        assert!(dropped_lines(&Client::new(admin)).await > 0);
        assert!(program.stop().await.success());
    }
}

// The filter shows that the program logs under its own target.
#[tokio::test]
async fn a_replica_that_cannot_listen_logs_why_and_exits_with_status_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut program = program(
        &[],
        &[
            ("DATABASE_URL", "postgres://nobody@localhost/nothing"),
            ("LISTEN", &*address),
            ("RUST_LOG", "api=info"),
        ],
    );
    assert_eq!(program.wait().await.code(), Some(1));
    assert_eq!(program.count_events("replica_failed"), 1);
    assert!(program.output().contains(&address), "{}", program.output());
}
