//! Sessions do not depend on the defaults that the server, the database and the role bring.

use shared::domain::{MinPoints, rounds};
use testkit::{TestDatabase, sql};

use crate::ROUND_TIMEOUT;

/// Defaults that break our statements, and what a session must have instead. sqlx sets the last two
/// when it connects.
const HOSTILE_DEFAULTS: &str = "
default_transaction_isolation|serializable|read committed
row_security|on|off
statement_timeout|1h|0
idle_session_timeout|1h|0
transaction_timeout|1h|0
lock_timeout|0|5s
client_min_messages|debug5|warning
timezone|Asia/Kathmandu|UTC
datestyle|SQL, DMY|ISO, MDY";

#[tokio::test]
async fn a_session_ignores_the_defaults_of_its_role() {
    let database = TestDatabase::new().await;
    let name = &database.name;
    let known = "select array_agg(lower(name)) from pg_settings";
    let known: Vec<String> = database.value(known).await;
    let mut settings: Vec<Vec<_>> = (HOSTILE_DEFAULTS.trim_start().lines())
        .map(|line| line.split('|').collect())
        .collect();
    // `transaction_timeout` is new in Postgres 17.
    settings.retain(|setting| known.iter().any(|known| known == setting[0]));
    for setting in &settings {
        // In this database alone, because all tests share the roles.
        let alter = format!("alter role max_two_api in database {name} set");
        database
            .run(&format!("{alter} {} = '{}'", setting[0], setting[1]))
            .await;
    }
    let mut session = database.connect(&database.api_url).await;
    for setting in settings {
        let actual: String = sql::value(&mut session, &format!("show {}", setting[0])).await;
        assert_eq!(actual, setting[2], "{setting:?}");
    }
}

#[tokio::test]
async fn a_round_fails_if_a_row_that_it_should_change_is_hidden_or_missing() {
    for (spoil, reason) in [
        (
            "alter table users enable row level security",
            "row-level security",
        ),
        ("delete from settings", "settings"),
    ] {
        let database = TestDatabase::with_users(10).await;
        database.run(spoil).await;
        let mut worker = database.connect(&database.worker_url).await;
        let minimum = MinPoints::draw();
        let round = rounds::run_now(&mut worker, minimum, ROUND_TIMEOUT).await;
        let error = round.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!error.is_transient());
        // Then it is seldom repeated.
        assert!(error.is_costly_to_retry(), "{error}");
        let rounds: i64 = database.value("select count(*) from rounds").await;
        assert_eq!(rounds, 0);
    }
}
