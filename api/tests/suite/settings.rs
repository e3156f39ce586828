//! Settings of the replica's program.

use testkit::TestDatabase;

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

#[tokio::test]
async fn the_url_can_come_from_a_file() {
    let database = TestDatabase::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, format!("{}\n", database.api)).unwrap();
    let mut replica = program(
        &[],
        &[
            ("DATABASE_URL_FILE", path),
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
        ],
    );
    replica.wait_for_event("database_connected").await;

    std::fs::write(path, "canary-password").unwrap();
    let mut program = program(&[], &[("DATABASE_URL_FILE", path)]);
    assert_eq!(program.wait().await.code(), Some(2));
    let output = program.output();
    assert!(
        output.contains("DATABASE_URL_FILE")
            && output.lines().count() == 1
            && !output.contains("canary-password"),
        "{output}"
    );
}

#[test]
fn every_setting_is_documented_with_its_default() {
    testkit::settings::assert_documented::<api::Settings>();
}
