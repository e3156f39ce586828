//! HTTP over TCP by hand, for requests that no HTTP client would send.

use std::net::SocketAddr;

use serde_json::Value;
use testkit::TEST_TIMEOUT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
pub(crate) const LAST_GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// Sends these bytes, and returns everything that the server sends until it closes.
pub(crate) async fn send_raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may have closed before everything was sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    read_until_closed(&mut stream).await
}

/// Everything that the server sends until it closes.
pub(crate) async fn read_until_closed(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let end = timeout(TEST_TIMEOUT, stream.read_to_end(&mut received)).await;
    // A reset closes the connection as well.
    let _ = end.expect("the server closes each connection in the end");
    String::from_utf8(received).unwrap()
}

/// Sends a query, and returns its response. The connection stays open.
pub(crate) async fn query(stream: &mut TcpStream) -> String {
    stream.write_all(GET).await.unwrap();
    let mut response = String::new();
    while !(response.contains("\"timestamp\":") && response.ends_with('}')) {
        response.push(stream.read_u8().await.unwrap().into());
    }
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    response
}

/// Asserts that `response` is one complete problem (RFC 9457) with this status.
pub(crate) fn assert_problem(response: &str, status: u16) {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no response: {response:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    assert_eq!(header("content-type"), "application/problem+json");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("content-length"), body.len().to_string());
    match status {
        405 => assert_eq!(header("allow"), "GET, HEAD"),
        503 => assert_eq!(header("retry-after"), "1"),
        _ => {}
    }
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], "about:blank");
    assert!(problem["title"].is_string() && problem["detail"].is_string());
}
