//! What orchestrators and servers bring: a rotated file, refusals that last, and
//! limits on threads.

use std::fs;

use tempfile::NamedTempFile;
use testkit::{Program, RefusingServer, TestDatabase, eventually};

use crate::{end_sessions, program};

const ANY_PORT: (&str, &str) = ("LISTEN", "127.0.0.1:0");
const ANY_ADMIN_PORT: (&str, &str) = ("ADMIN_LISTEN", "127.0.0.1:0");

#[tokio::test]
async fn a_rotated_url_is_used_without_a_restart() {
    let database = TestDatabase::new().await;
    let file = NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, &database.api).unwrap();
    let url = ("DATABASE_URL_FILE", path);
    let mut replica = program(&[], &[ANY_PORT, ANY_ADMIN_PORT, url]);
    replica.wait_for_event("database_connected").await;
    fs::write(path, "canary-password").unwrap();
    end_sessions(&database).await;
    replica.wait_for_event("database_refused").await;
    assert!(replica.output().contains(path), "{}", replica.output());
    fs::write(path, &database.api).unwrap();
    eventually("it has connected again", async || {
        replica.count_events("database_connected") == 2
    })
    .await;
    assert!(!replica.output().contains("canary-password"));
}

#[tokio::test]
async fn a_refusal_that_lasts_is_an_error_in_any_language_and_is_seldom_repeated() {
    let refuse = |code, message: &[u8]| {
        let server = RefusingServer::new(code, message);
        let url = server.url();
        let replica = program(&[], &[ANY_PORT, ANY_ADMIN_PORT, ("DATABASE_URL", &url)]);
        (server, replica)
    };
    let starting = "le système de bases de données se lance".as_bytes();
    let (starting, its_replica) = refuse("57P03", starting);
    let wrong_password = "Passwort-Authentifizierung für »r« fehlgeschlagen".as_bytes();
    let lasting = [
        ("28P01", wrong_password),
        // The same in Latin-1.
        (
            "28P01",
            b"Passwort-Authentifizierung f\xfcr \xbbr\xab fehlgeschlagen",
        ),
        ("28000", b"no pg_hba.conf entry for host \"::1\""),
        ("3D000", b"database \"d\" does not exist"),
        ("42501", b"permission denied for database \"d\""),
    ]
    .map(|(code, message)| refuse(code, message));
    eventually("all are refused, one of them again and again", async || {
        let is_logged = |replica: &Program| replica.count_events("database_refused") == 1;
        starting.refusals() >= 20 && lasting.iter().all(|(_, replica)| is_logged(replica))
    })
    .await;
    assert_eq!(its_replica.count_events("database_unavailable"), 1);
    for (server, replica) in &lasting {
        let refusals = (server.refusals(), starting.refusals());
        assert!(refusals.0 * 5 <= refusals.1, "{refusals:?}");
        // Without the line of Postgres' source.
        assert!(
            !replica.output().contains("7654321"),
            "{}",
            replica.output()
        );
    }
}

#[tokio::test]
async fn the_number_of_threads_is_bounded_and_without_any_it_ends_with_one_line() {
    let url = ("DATABASE_URL", "postgres://r:p@127.0.0.1:1/d");
    let start = |limit| program(&[], &[ANY_PORT, ANY_ADMIN_PORT, url, limit]);
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
