//! Requests that an HTTP client would not send, and the helpers that send them over TCP.

use std::net::SocketAddr;

use serde_json::Value;
use testkit::{TEST_TIMEOUT, TestDatabase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::replica;

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

/// Asserts that `response` is one complete problem (RFC 9457) with this status.
pub(crate) fn assert_problem(response: &str, status: u16) {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no response: {response:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "not {status}: {head}"
    );
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    assert_eq!(header("content-type"), "application/problem+json");
    assert_eq!(header("cache-control"), "no-store");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-length"), body.len().to_string());
    assert!(header("date").ends_with(" GMT"), "{head}");
    match status {
        405 => assert_eq!(header("allow"), "GET, HEAD"),
        503 => assert_eq!(header("retry-after"), "1"),
        404 => {}
        _ => assert_eq!(header("connection"), "close"),
    }
    let problem: Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!(problem["status"], status);
    assert_eq!(problem["type"], "about:blank");
    assert!(problem["title"].is_string() && problem["detail"].is_string());
}

#[tokio::test]
async fn every_invalid_request_gets_a_problem_with_its_status() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = replica(&database, &[]).await;
    let address = program.address("listen").await;
    // Longer than a target may be, and than a head.
    let long = "a".repeat(9_000);
    let longer = "a".repeat(70_000);
    let many_headers = "x: y\r\n".repeat(80);
    let last = "connection: close\r\n\r\n";
    for (status, request) in [
        (400, "HELLO\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (
            400,
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
        ),
        (400, "GET relative HTTP/1.1\r\nhost: a\r\n\r\n".to_owned()),
        (
            400,
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
                .to_owned(),
        ),
        (404, format!("GET /nope HTTP/1.1\r\nhost: a\r\n{last}")),
        (
            404,
            format!("GET //  HTTP/1.1\r\nhost: a\r\n{last}").replace("  ", " "),
        ),
        (
            404,
            format!("GET http://a/nope HTTP/1.1\r\nhost: a\r\n{last}"),
        ),
        (405, format!("POST / HTTP/1.1\r\nhost: a\r\n{last}")),
        (405, format!("DELETE /readyz HTTP/1.1\r\nhost: a\r\n{last}")),
        (405, format!("OPTIONS * HTTP/1.1\r\nhost: a\r\n{last}")),
        (405, format!("BREW / HTTP/1.1\r\nhost: a\r\n{last}")),
        (405, format!("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n{last}")),
        (400, format!("GET / HTTP/1.1\r\nhost: a b/c@d\r\n{last}")),
        (400, format!("GET / HTTP/1.1\r\nhost: a/b\r\n{last}")),
        (400, format!("GET / HTTP/1.1\r\nhost: user@a\r\n{last}")),
        (400, format!("GET / HTTP/1.1\r\nhost: a:http\r\n{last}")),
        (
            400,
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n".to_owned(),
        ),
        // The method is checked before all else.
        (
            405,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
        ),
        (
            405,
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            405,
            format!(
                "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\
                 content-length: 1000000\r\n\r\n{longer}"
            ),
        ),
        (
            405,
            "POST / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (405, format!("POST /?{long} HTTP/1.1\r\nhost: a\r\n{last}")),
        (
            404,
            "POST /nope HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
        ),
        (
            413,
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
        ),
        (
            413,
            format!("GET /?a HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n{longer}"),
        ),
        (
            413,
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (414, format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n")),
        (414, format!("GET /{longer} HTTP/1.1\r\nhost: a\r\n\r\n")),
        (
            431,
            format!("GET / HTTP/1.1\r\nhost: a\r\n{many_headers}\r\n"),
        ),
        (
            431,
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {longer}\r\n\r\n"),
        ),
    ] {
        let response = send_raw(address, request.as_bytes()).await;
        let shown = &request[..request.len().min(60)];
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown:?} is not {status}: {response:?}"
        );
        assert_problem(&response, status);
    }
}

#[tokio::test]
async fn targets_in_absolute_form_and_http_1_0_are_answered() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = replica(&database, &[]).await;
    let address = program.address("listen").await;
    for request in [
        "GET http://example.org/ HTTP/1.1\r\nhost: example.org\r\nconnection: close\r\n\r\n",
        "GET /?a=b&c HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntraceparent: \u{fc}\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: [::1]:4000\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: example.org:\r\nconnection: close\r\n\r\n",
        // A chunked body without content, as a proxy may add it, without a trailer and with one.
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n",
        // Empty lines before a request.
        "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        // Two pipelined requests.
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n\
         GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ] {
        let response = send_raw(address, request.as_bytes()).await;
        assert!(
            response.starts_with("HTTP/1.") && response.contains(" 200 OK"),
            "{request:?}: {response:?}"
        );
    }
}

#[tokio::test]
async fn an_invalid_request_after_one_of_http_1_0_gets_a_problem() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = replica(&database, &[]).await;
    let address = program.address("listen").await;
    let request = b"GET /livez HTTP/1.0\r\nconnection: keep-alive\r\n\r\nHELLO\r\n\r\n";
    let response = send_raw(address, request).await;
    let (_, problem) = response.split_once("ok\n").unwrap();
    assert_problem(problem, 400);
}
