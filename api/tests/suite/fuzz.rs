//! Random bytes, from nearly valid requests to noise, sent to a replica over TCP.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use testkit::TestDatabase;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::raw_http::send_raw;
use crate::replica;

/// Random inputs per run.
const CASES: u32 = 1_500;

/// Bytes from nearly valid requests to arbitrary ones.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        3 => Just("GET".to_owned()),
        1 => Just("HEAD".to_owned()),
        1 => Just("CONNECT".to_owned()),
        1 => Just("OPTIONS".to_owned()),
        2 => "[A-Za-z!#]{0,9}",
    ];
    let target = prop_oneof![
        3 => Just("/".to_owned()),
        1 => Just("*".to_owned()),
        1 => "(http://)?[a-z]{0,5}(:[0-9]{0,6})?/?",
        2 => "/[ -~]{0,40}",
        1 => "\\PC{0,20}",
    ];
    let version = prop_oneof![
        6 => Just("HTTP/1.1".to_owned()),
        1 => Just("HTTP/1.0".to_owned()),
        1 => "HTTP/[0-9.]{1,4}",
    ];
    let header = prop_oneof![
        4 => Just("host: a".to_owned()),
        1 => "content-length: [0-9-]{1,12}",
        1 => Just("transfer-encoding: chunked".to_owned()),
        1 => Just("expect: 100-continue".to_owned()),
        1 => Just("connection: upgrade\r\nupgrade: websocket".to_owned()),
        1 => "traceparent: \\PC{0,60}",
        2 => "[a-zA-Z-]{0,10}: ?[ -~]{0,30}",
        1 => "\\PC{0,30}",
    ];
    let whole = (
        method,
        target,
        version,
        vec(header, 0..6),
        vec(any::<u8>(), 0..40),
    )
        .prop_map(|(method, target, version, headers, body)| {
            let head: String = headers
                .iter()
                .map(|header| header.clone() + "\r\n")
                .collect();
            let mut bytes = format!("{method} {target} {version}\r\n{head}\r\n").into_bytes();
            bytes.extend(body);
            bytes
        });
    let damaged = (
        whole.clone(),
        any::<prop::sample::Index>(),
        vec(any::<u8>(), 0..5),
    )
        .prop_map(|(mut bytes, index, damage)| {
            let start = index.index(bytes.len());
            bytes.splice(start..(start + damage.len()).min(bytes.len()), damage);
            bytes
        });
    prop_oneof![4 => whole, 3 => damaged, 1 => vec(any::<u8>(), 0..300)]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_causes_a_panic_or_a_5xx_other_than_503() {
    let database = TestDatabase::with_users(10).await;
    let (mut program, client) = replica(&database, &[("HEADER_TIMEOUT", "2s")]).await;
    let address = program.address("listen").await;
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = block_in_place(|| {
        runner.run(&request(), |bytes| {
            let response = Handle::current()
                .block_on(timeout(Duration::from_secs(30), send_raw(address, &bytes)));
            let response =
                response.map_err(|_| TestCaseError::fail("the connection was left open"))?;
            // A response begins at each status line. A body does not end with a line break, and may
            // contain "HTTP/1.1" itself.
            let responses = response
                .split("HTTP/1.")
                .filter_map(|response| response.get(2..5));
            for status in responses.filter(|status| status.parse::<u16>().is_ok()) {
                let fine = [
                    "100", "200", "400", "404", "405", "408", "413", "414", "431", "503",
                ];
                prop_assert!(fine.contains(&status), "{}", response);
            }
            Ok(())
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(client.get("/").await.status, 200);
    assert!(program.stop().await.success());
    assert!(
        !program.output().contains("panicked"),
        "{}",
        program.output()
    );
}
