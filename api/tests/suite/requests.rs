//! Any method, target, version, header and content: what is answered, what is refused and how.

use testkit::TestDatabase;

use crate::raw::{assert_problem, send_raw};
use crate::start_replica;

/// Parts of requests, between spaces. All combinations are sent.
const METHODS: &str = "GET HEAD POST OPTIONS CONNECT TRACE brew ";
const TARGETS: &str = "/ // /livez/ /readyz?%ff /%2e%2e/ /% * a:443 a : ? http://a \
                       http://a:99999/ http://[::1/ /\u{fc}#~^`|{}\"<>\\ ";
const VERSIONS: &str = "HTTP/1.1 HTTP/1.0 HTTP/9.9 ftp";
/// Headers and content.
const REST: [&str; 13] = [
    "\r\n",
    "host: a\r\n\r\n",
    "host: a\r\nhost: b\r\n\r\n",
    "host: a\r\ncontent-length: 3\r\n\r\nabc",
    "host: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "host: a\r\ncontent-length: -1\r\n\r\n",
    "host: a\r\ncontent-length: 9\r\n\r\nabc",
    "host: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "host: a\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n",
    "host: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    "host: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\0\u{1}",
    "host: a\r\naccept: \u{fc}\r\n: no name\r\n\r\n",
    "host: a\r\n folded: b\r\nx\0: y\r\n\r\nGET / HTTP/1.1\r\n",
];

#[tokio::test]
async fn no_request_causes_a_panic_or_an_internal_error() {
    let database = TestDatabase::with_users(10).await;
    let (mut program, client) = start_replica(&database, &[]).await;
    let address = program.address("listen").await;
    let mut requests = vec![
        b"\0\xff\x16\x03\x01".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(70_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(80)).into_bytes(),
    ];
    for method in METHODS.split(' ') {
        for target in TARGETS.split(' ') {
            for version in VERSIONS.split(' ') {
                for rest in REST {
                    requests.push(format!("{method} {target} {version}\r\n{rest}").into_bytes());
                }
            }
        }
    }
    // Each byte of a request is damaged, and each beginning of it is all that comes.
    let whole = b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\na";
    for index in 0..whole.len() {
        for damage in [0, b'\n', b' ', b':', 0x80, 0xff] {
            let mut damaged = whole.to_vec();
            damaged[index] = damage;
            requests.push(damaged);
        }
        requests.push(whole[..index].to_vec());
    }
    for request in requests {
        let response = send_raw(address, &request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]);
        for status in response.split("HTTP/1.1 ").skip(1) {
            let is_known = ["100", "200", "400", "404", "405", "431", "505"]
                .iter()
                .any(|known| status.starts_with(known));
            assert!(is_known, "{shown:?}: {response:?}");
        }
    }
    assert_eq!(client.get("/").await.status, 200);
    assert!(program.stop().await.success());
    let output = program.output();
    assert!(!output.contains("panicked"), "{output}");
}

#[tokio::test]
async fn a_request_that_is_refused_gets_a_problem() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = start_replica(&database, &[]).await;
    let address = program.address("listen").await;
    for (status, request) in [
        (404, "GET /nope HTTP/1.1\r\n\r\n"),
        (404, "GET // HTTP/1.1\r\n\r\n"),
        (404, "POST /nope HTTP/1.1\r\n\r\n"),
        (405, "POST / HTTP/1.1\r\n\r\n"),
        (405, "DELETE /readyz HTTP/1.1\r\n\r\n"),
        (405, "OPTIONS * HTTP/1.1\r\n\r\n"),
        (405, "CONNECT a:443 HTTP/1.1\r\n\r\n"),
    ] {
        assert_problem(&send_raw(address, request.as_bytes()).await, status);
    }
}

#[tokio::test]
async fn every_form_of_a_get_is_answered_like_a_plain_one() {
    let database = TestDatabase::new().await;
    let (mut program, _client) = start_replica(&database, &[]).await;
    let address = program.address("listen").await;
    let chunked = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n";
    for request in [
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        "GET /?a=b&c HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n".to_owned(),
        "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\naccept: \u{fc}\r\n\r\n".to_owned(),
        // With content.
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{chunked}"),
        // Several requests at once.
        format!("POST / HTTP/1.1\r\n{chunked}HEAD / HTTP/1.1\r\n{chunked}GET / HTTP/1.1\r\n\r\n"),
    ] {
        let response = send_raw(address, request.as_bytes()).await;
        let (head, body) = response.rsplit_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(" 200 OK\r\n") && body.starts_with(r#"{"users":[],"timestamp":"#),
            "{request:?}: {response:?}"
        );
    }
}
