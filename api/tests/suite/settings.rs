//! Settings of the replica's program.

use crate::start_program;

/// A variable, and what the error names. If its value is valid, that is the missing database.
const SETTINGS: &str = "
LISTEN=localhost:4000|such as 127.0.0.1:4000
ADMIN_LISTEN=:9000|such as 127.0.0.1:4000
MAX_CONNECTIONS=0|--max-connections
REQUEST_TIMEOUT=0s|--request-timeout
IDLE_TIMEOUT=long|--idle-timeout
HEADER_TIMEOUT=25h|--header-timeout
WRITE_TIMEOUT=1000y|--write-timeout
CLOSE_TIMEOUT=200000000000y|--close-timeout
LOG_FORMAT=xml|--log-format
REUSE_PORT=maybe|--reuse-port
REUSE_PORT=1|DATABASE_URL_FILE /nowhere
REUSE_PORT=|DATABASE_URL_FILE /nowhere
LISTEN=|DATABASE_URL_FILE /nowhere
LOG_FORMAT=|DATABASE_URL_FILE /nowhere
DATABASE_URL=|DATABASE_URL_FILE /nowhere
DATABASE_URL_FILE=|DATABASE_URL";

#[tokio::test]
async fn a_value_is_understood_or_named_in_one_line_with_exit_status_2() {
    for line in SETTINGS.trim_start().lines() {
        let (variable, named) = line.split_once('|').unwrap();
        let no_database = ("DATABASE_URL_FILE", "/nowhere");
        let mut program = start_program(&[], &[no_database, variable.split_once('=').unwrap()]);
        assert_eq!(program.wait().await.code(), Some(2), "{line}");
        let output = program.output();
        assert!(output.contains(named), "{line}: {output}");
        assert_eq!(output.lines().count(), 1, "{line}: {output}");
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    testkit::settings::assert_documented::<api::Settings>();
}
