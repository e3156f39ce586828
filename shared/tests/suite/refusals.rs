//! Servers that refuse a session, and the choice among several. Of most refusals only the SQLSTATE
//! matters, so a listener sends it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use shared::db::{Database, Error, Session};
use shared::program::backoff::Backoff;
use testkit::TestDatabase;

/// Long enough for several servers, of which one is silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The address of a server that refuses every session with these fields of Postgres'
/// `ErrorResponse`.
fn refusing_server(code: &str, message: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut fields = Vec::new();
    for (field, text) in [
        (b'S', &b"FATAL"[..]),
        (b'V', b"FATAL"),
        (b'C', code.as_bytes()),
        (b'M', message),
        // A line of Postgres' source.
        (b'L', b"476"),
    ] {
        fields.push(field);
        fields.extend(text);
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap();
    let response = [&b"E"[..], &length.to_be_bytes(), &fields].concat();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut startup = [0; 4096];
            assert!(client.read(&mut startup).unwrap() > 0);
            client.write_all(&response).unwrap();
        }
    });
    address
}

async fn connect(url: &str) -> Result<Session, Error> {
    let database = Database::parse(url, "test").unwrap();
    database.connect(CONNECT_TIMEOUT).await
}

/// The error of connecting to a server that refuses the session.
async fn refused(code: &str, message: &[u8]) -> Error {
    let address = refusing_server(code, message);
    connect(&format!("postgres://r:p@{address}/d?sslmode=disable"))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_pooler_and_an_old_server_are_recognised_by_their_refusals() {
    let pooler = "the database is behind a pooler";
    for (code, message, expected) in [
        // PgBouncer
        (
            "08P01",
            "unsupported startup parameter in options: jit",
            pooler,
        ),
        // RDS Proxy
        (
            "0A000",
            "Feature not supported: RDS Proxy currently doesn’t support command-line options.",
            pooler,
        ),
        // Postgres 13
        (
            "42704",
            "unrecognized configuration parameter \"idle_session_timeout\"",
            "needs 15 or newer",
        ),
    ] {
        let error = refused(code, message.as_bytes()).await;
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_refusal_that_lasts_is_an_error_in_any_language_and_is_not_repeated_for_ten_seconds() {
    let mut backoff = Backoff::new(Duration::from_millis(200));
    let ten_seconds = Duration::from_secs(10);
    for (code, message) in [
        (
            "28P01",
            "password authentication failed for user \"r\"".as_bytes(),
        ),
        (
            "28P01",
            "Passwort-Authentifizierung für »r« fehlgeschlagen".as_bytes(),
        ),
        // The same in Latin-1.
        (
            "28P01",
            b"Passwort-Authentifizierung f\xfcr \xbbr\xab fehlgeschlagen",
        ),
        ("28000", b"no pg_hba.conf entry for host \"::1\""),
        ("3D000", b"database \"d\" does not exist"),
        ("42501", b"permission denied for database \"d\""),
    ] {
        let error = refused(code, message).await;
        assert!(!error.is_transient(), "{error}");
        assert!(!error.to_string().contains("476"), "{error}");
        assert!(backoff.next_delay(&error) >= ten_seconds, "{error}");
    }
    let starting = "le système de bases de données se lance";
    let error = refused("57P03", starting.as_bytes()).await;
    assert!(error.is_transient(), "{error}");
    assert!(backoff.next_delay(&error) < ten_seconds, "{error}");
}

#[tokio::test]
async fn a_load_balancer_without_a_server_behind_it_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.unwrap().read(&mut [0; 4096]);
        }
    });
    for mode in ["prefer", "disable"] {
        let url = format!("postgres://r:p@{address}/d?sslmode={mode}");
        let error = connect(&url).await.unwrap_err();
        assert!(error.to_string().contains("load balancer"), "{error}");
        assert!(error.is_transient());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_first_writable_primary_is_used_whatever_the_others_do() {
    let primary = TestDatabase::with_own_server().await;
    let standby = primary.standby().await;
    let port = async |database: &TestDatabase| database.server.lock().await.port();
    let (primary_port, standby_port) = (port(&primary).await, port(&standby).await);
    let starting = refusing_server("57P03", b"the database system is starting up");
    let full = refusing_server("53300", b"sorry, too many clients already");
    let closed = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
    // Accepts, and never answers.
    let silent_listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent_listener.local_addr().unwrap();
    let others = format!(
        "{silent},{closed},nowhere.invalid:5432,{starting},{full},127.0.0.1:{standby_port}"
    );
    let with_servers = |servers: &str| {
        let own = format!("127.0.0.1:{primary_port}");
        primary.api.replace(&own, servers)
    };

    let url = with_servers(&format!("{others},127.0.0.1:{primary_port}"));
    let session = connect(&url).await;
    assert!(session.is_ok(), "{:?}", session.err());

    let error = connect(&with_servers(&others)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let text = error.to_string();
    let mut reasons = text.split("; ");
    for (server, reason) in [
        (silent.to_string(), "did not answer within 500ms"),
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
    connect(&database.api).await.unwrap();
    let name = database.name();
    let path = "search_path = public, pg_catalog";
    let alter = format!("alter role max_two_api in database {name} set {path}");
    database.run(&alter).await;
    let error = connect(&database.api).await.unwrap_err();
    assert!(error.to_string().contains("needs 15 or newer"), "{error}");
    assert!(!error.is_transient());
}
