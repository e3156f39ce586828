//! Logs that cannot be written, and logs that nobody reads.

use std::fs::File;
use std::io::pipe;
use std::os::fd::OwnedFd;

use testkit::{Client, TestDatabase, TestProgram, eventually, free_address};
use tokio::process::Command;

async fn dropped_lines(admin: &Client) -> u64 {
    let metrics = admin.get("/metrics").await.body;
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("max_two_api_log_lines_dropped_total "))
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_log_that_is_full_closed_or_not_read_fails_no_request() {
    let database = TestDatabase::with_users(10).await;
    let (_, broken_pipe) = pipe().unwrap();
    let (_unread, unread_pipe) = pipe().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    for log in [full.into(), broken_pipe.into(), OwnedFd::from(unread_pipe)] {
        let (public, admin) = (free_address(), free_address());
        let mut command = Command::new("sh");
        // `TestProgram` captures standard output and error, so the log is passed as standard input.
        command
            .args([
                "-c",
                "exec \"$0\" 2>&0 0</dev/null",
                env!("CARGO_BIN_EXE_max-two-api"),
            ])
            .env("DATABASE_URL", &database.api_url)
            .env("LISTEN", public.to_string())
            .env("ADMIN_LISTEN", admin.to_string())
            .env("DRAIN_DELAY", "0s")
            .env("REQUEST_TIMEOUT", "50s")
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", "trace")
            .stdin(log);
        let mut program = TestProgram::spawn(command);
        let (client, admin) = (Client::new(public), Client::new(admin));
        eventually("it answers", async || {
            client
                .try_get("/")
                .await
                .is_some_and(|reply| reply.status == 200)
        })
        .await;
        eventually("the log is full", async || {
            for _ in 0..500 {
                assert_eq!(client.get("/").await.status, 200);
            }
            dropped_lines(&admin).await > 0
        })
        .await;
        assert!(program.stop().await.success());
    }
}
