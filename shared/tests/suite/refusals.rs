//! Refusals of servers that a test cannot run: what matters is their SQLSTATE.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use shared::db::{Database, Error};

/// The error of connecting to a server that refuses the session with these fields of Postgres'
/// `ErrorResponse`.
async fn refused(code: &str, message: &[u8]) -> Error {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut fields = Vec::new();
    for (field, text) in [
        (b'S', &b"FATAL"[..]),
        (b'V', b"FATAL"),
        (b'C', code.as_bytes()),
        (b'M', message),
    ] {
        fields.push(field);
        fields.extend(text);
        fields.push(0);
    }
    fields.push(0);
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut startup = [0; 4096];
        assert!(client.read(&mut startup).unwrap() > 0);
        let length = u32::try_from(fields.len() + 4).unwrap();
        let response = [&b"E"[..], &length.to_be_bytes(), &fields].concat();
        client.write_all(&response).unwrap();
    });
    let url = format!("postgres://r:p@{address}/d?sslmode=disable");
    let database = Database::parse(&url, "test").unwrap();
    let error = database.connect(Duration::from_secs(10)).await.unwrap_err();
    server.join().unwrap();
    error
}

#[tokio::test]
async fn a_pooler_is_recognised_by_its_refusal() {
    for (code, message) in [
        // PgBouncer
        ("08P01", "unsupported startup parameter in options: jit"),
        // RDS Proxy
        (
            "0A000",
            "Feature not supported: RDS Proxy currently doesn’t support command-line options.",
        ),
    ] {
        let error = refused(code, message.as_bytes()).await;
        assert!(
            error
                .to_string()
                .contains("the database is behind a pooler"),
            "{error}"
        );
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_refusal_that_lasts_is_an_error_in_any_language_and_encoding() {
    for message in [
        "password authentication failed for user \"r\"".as_bytes(),
        "Passwort-Authentifizierung für Benutzer »r« fehlgeschlagen".as_bytes(),
        // The same in Latin-1.
        b"Passwort-Authentifizierung f\xfcr Benutzer \xbbr\xab fehlgeschlagen",
    ] {
        let error = refused("28P01", message).await;
        assert!(!error.is_transient(), "{error}");
    }
    let starting = "le système de bases de données se lance";
    let error = refused("57P03", starting.as_bytes()).await;
    assert!(error.is_transient(), "{error}");
}
