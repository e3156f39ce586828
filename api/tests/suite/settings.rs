//! Settings of the replica's program.

use crate::program;

#[tokio::test]
async fn a_bad_setting_is_named_in_one_line_with_exit_status_2() {
    for (name, value, named) in [
        ("LISTEN", "4000", "--listen"),
        ("MAX_CONNECTIONS", "0", "--max-connections"),
        ("REQUEST_TIMEOUT", "0s", "--request-timeout"),
        ("IDLE_TIMEOUT", "long", "--idle-timeout"),
        ("HEADER_TIMEOUT", "25h", "--header-timeout"),
        ("WRITE_TIMEOUT", "1000y", "--write-timeout"),
        ("CLOSE_TIMEOUT", "200000000000y", "--close-timeout"),
        ("LOG_FORMAT", "xml", "--log-format"),
        (
            "DATABASE_URL",
            "http://canary-password@host",
            "DATABASE_URL",
        ),
        (
            "DATABASE_URL_FILE",
            "/nowhere/at/all",
            "DATABASE_URL_FILE /nowhere/at/all",
        ),
        ("DRAIN_DELAY", "1s", "DATABASE_URL"),
    ] {
        let mut program = program(&[], &[(name, value)]);
        assert_eq!(program.wait().await.code(), Some(2), "{name}={value}");
        let output = program.output();
        assert!(
            output.contains(named) && output.lines().count() == 1,
            "{name}={value}: {output}"
        );
        assert!(!output.contains("canary-password"), "{output}");
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    testkit::settings::assert_documented::<api::Settings>();
}
