//! Servers that refuse a session, and the choice among several.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use shared::db::{Backoff, Database, Error, Session};
use testkit::TestDatabase;

async fn connect(url: &str) -> Result<Session, Error> {
    Database::parse(url, "test").unwrap().connect().await
}

/// A server that refuses every session with this SQLSTATE and message, and with a line of Postgres'
/// source.
fn refusing_server(code: &str, message: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fields = format!("SFATAL\0VFATAL\0L7654321\0C{code}\0M");
    let fields = [fields.as_bytes(), message, b"\0\0"].concat();
    let length = u32::try_from(fields.len() + 4).unwrap();
    let response = [&b"E"[..], &length.to_be_bytes(), &fields].concat();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // A client may have given up by now.
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(&response);
        }
    });
    address
}

#[tokio::test]
async fn a_refusal_that_lasts_is_known_in_any_language_and_is_seldom_repeated() {
    for (code, message, expected, lasts) in [
        // Of PgBouncer, RDS Proxy and Postgres 13.
        (
            "08P01",
            &b"unsupported startup parameter in options: jit"[..],
            "behind a pooler",
            true,
        ),
        (
            "0A000",
            b"RDS Proxy currently doesn't support command-line options.",
            "behind a pooler",
            true,
        ),
        (
            "42704",
            b"unrecognized configuration parameter \"idle_session_timeout\"",
            "needs 15 or newer",
            true,
        ),
        ("28P01", "für »r«".as_bytes(), "für »r«", true),
        ("28P01", b"in Latin-1: f\xfcr \xbbr\xab", "non-UTF-8", true),
        ("28000", b"no pg_hba.conf entry", "pg_hba", true),
        ("3D000", b"no such database", "no such", true),
        ("42501", b"permission denied", "denied", true),
        ("57P03", "se lance".as_bytes(), "se lance", false),
    ] {
        let address = refusing_server(code, message);
        let url = format!("postgres://r:p@{address}/d?sslmode=disable");
        let error = connect(&url).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(expected) && !text.contains("7654321"),
            "{text}"
        );
        assert_eq!(error.is_transient(), !lasts, "{text}");
        let delay = Backoff::new(Duration::from_millis(200)).next_delay(&error);
        assert_eq!(delay >= Duration::from_secs(10), lasts, "{text}");
    }
    // Another server is down.
    let refusing = refusing_server("28P01", b"password");
    let url = format!("postgres://r:p@127.0.0.1:1,{refusing}/d?sslmode=disable");
    let error = connect(&url).await.unwrap_err();
    assert!(error.is_costly_to_retry(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_first_writable_primary_is_used_whatever_the_others_do() {
    let primary = TestDatabase::with_own_server(&[]).await;
    let standby = primary.standby().await;
    let (primary_port, standby_port) = (primary.port().await, standby.port().await);
    let starting = refusing_server("57P03", b"the database system is starting up");
    let full = refusing_server("53300", b"sorry, too many clients already");
    let closed = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    // Accepts, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let others = format!(
        "{silent},{closed},nowhere.invalid:5432,{starting},{full},127.0.0.1:{standby_port}"
    );
    let with_servers = |servers: &str| {
        let own = format!("127.0.0.1:{primary_port}");
        primary.api_url.replace(&own, servers)
    };

    let url = with_servers(&format!("{others},127.0.0.1:{primary_port}"));
    let session = connect(&url).await;
    assert!(session.is_ok(), "{:?}", session.err());

    let error = connect(&with_servers(&others)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let text = error.to_string();
    let mut reasons = text.split("; ");
    for (server, reason) in [
        (silent.to_string(), "did not answer within 833"),
        (closed.to_string(), "refused"),
        ("nowhere.invalid:5432".to_owned(), "lookup"),
        (starting.to_string(), "starting up"),
        (full.to_string(), "too many clients"),
        (format!("127.0.0.1:{standby_port}"), "standby"),
    ] {
        let named = reasons.next().unwrap();
        assert!(
            named.starts_with(&server) && named.contains(reason),
            "{text}"
        );
    }
    assert_eq!(reasons.next(), None);
    // So a program logs it once.
    let again = connect(&with_servers(&others)).await.unwrap_err();
    assert_eq!(again.to_string(), text);
}

// The role's search path finds this function before Postgres' own.
#[tokio::test]
async fn postgres_14_is_too_old() {
    let database = TestDatabase::new().await;
    database
        .run(
            "create function current_setting(text) returns text language sql as $$ \
                 select case $1 when 'server_version_num' then '140010' \
                        else pg_catalog.current_setting($1) end $$",
        )
        .await;
    connect(&database.api_url).await.unwrap();
    let role = format!("alter role max_two_api in database {}", database.name);
    let alter = format!("{role} set search_path = public, pg_catalog");
    database.run(&alter).await;
    let error = connect(&database.api_url).await.unwrap_err();
    assert!(error.to_string().contains("needs 15 or newer"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn an_error_quotes_no_character_of_the_password() {
    let database = TestDatabase::new().await;
    let password = database.server.lock().await.password().to_owned();
    let url = database.api_url.replace(&password, "canary%07");
    let error = connect(&url).await.unwrap_err().to_string();
    assert!(
        error.contains("SASLprep") && !error.contains("u{7}"),
        "{error}"
    );
}
