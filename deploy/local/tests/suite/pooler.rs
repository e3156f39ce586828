//! A connection pooler in front of the database. Needs PgBouncer.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;

use testkit::{Client, Program, TestDatabase};

use crate::service::{replica, worker};

/// Starts PgBouncer in front of the database. It can't listen on port 0, so it gets a listening
/// socket, as from systemd: file 3, with variables that name the process that it is for.
async fn start_pooler(
    database: &TestDatabase,
    settings: &str,
) -> (Program, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = database.server.lock().await;
    let [api, worker] = ["max_two_api", "max_two_worker"].map(|role| {
        format!(
            "host=127.0.0.1 port={} dbname={} user={role} password={}",
            server.port(),
            database.name(),
            server.password()
        )
    });
    let file = folder.path().join("pgbouncer.ini");
    let text = format!(
        "[databases]\napi = {api}\nworker = {worker}\n[pgbouncer]\nauth_type = any\n{settings}\n"
    );
    fs::write(&file, text).unwrap();
    let readable = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status();
    assert!(readable.unwrap().success());
    let mut command = tokio::process::Command::new("sh");
    command.args([
        "-c",
        "LISTEN_FDS=1 LISTEN_PID=$$ exec pgbouncer \"$@\" 3<&0",
        "pgbouncer",
    ]);
    if nix::unistd::Uid::effective().is_root() {
        command.args(["-u", "postgres"]);
    }
    command.arg(&file).stdin(OwnedFd::from(socket));
    let mut program = Program::spawn(command);
    program.wait_for_output("process up").await;
    (program, address, folder)
}

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn behind_a_pooler_both_programs_log_at_once_what_they_need() {
    let database = TestDatabase::with_users(100).await;
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
    ] {
        let (pooler, address, _folder) = start_pooler(&database, settings).await;
        let url = |role| format!("postgres://anybody@{address}/{role}");
        let mut worker = worker(&url("worker"), &[]);
        let mut replica = replica(&url("api"));
        for program in [&mut worker, &mut replica] {
            program
                .wait_for_output("the database is behind a pooler")
                .await;
            program.wait_for_output("\"ERROR\"").await;
        }
        worker.wait_for_event("round_failed").await;
        replica.wait_for_event("database_refused").await;
        let client = Client::new(replica.address("listen").await);
        assert_eq!(client.get("/readyz").await.status, 503);
        assert!(worker.stop().await.success());
        assert!(replica.stop().await.success());
        drop(pooler);
    }
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
}
