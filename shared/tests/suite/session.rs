//! Sessions do not depend on the defaults that the server, the database and the role bring.

use std::time::Duration;

use shared::db::Database;
use shared::domain::last_query::ChainSession;
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use testkit::TestDatabase;

use crate::ROUND_TIMEOUT;

/// Defaults that break our statements, and what a session must have instead.
const HOSTILE_DEFAULTS: [(&str, &str, &str); 9] = [
    (
        "default_transaction_isolation",
        "serializable",
        "read committed",
    ),
    ("row_security", "on", "off"),
    ("statement_timeout", "1h", "0"),
    ("idle_session_timeout", "1h", "0"),
    ("transaction_timeout", "1h", "0"),
    ("lock_timeout", "0", "5s"),
    ("client_min_messages", "debug5", "warning"),
    // Set by sqlx when it connects.
    ("timezone", "Asia/Kathmandu", "UTC"),
    ("datestyle", "SQL, DMY", "ISO, MDY"),
];

#[tokio::test]
async fn a_session_ignores_the_defaults_of_its_role() {
    let database = TestDatabase::new().await;
    let name = database.name();
    let known: Vec<String> = database.values("select lower(name) from pg_settings").await;
    // `transaction_timeout` is new in Postgres 17.
    let settings = || {
        let is_known = |setting: &str| known.iter().any(|known| known == setting);
        HOSTILE_DEFAULTS
            .iter()
            .filter(move |(setting, ..)| is_known(setting))
    };
    for (setting, hostile, _) in settings() {
        // In this database alone, because all tests share the roles.
        let alter = format!("alter role max_two_api in database {name} set");
        database
            .run(&format!("{alter} {setting} = '{hostile}'"))
            .await;
    }
    let mut session = database.connect(&database.api).await;
    for (setting, _, expected) in settings() {
        let actual: String = sqlx::query_scalar("select current_setting($1)")
            .bind(setting)
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert_eq!(actual, *expected, "{setting}");
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
        let mut worker = database.connect(&database.worker).await;
        let minimum = MinPoints::draw();
        let round = rounds::run_now(&mut worker, Layout::SingleNode, minimum, ROUND_TIMEOUT).await;
        let error = round.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!error.is_transient());
        let rounds: i64 = database.value("select count(*) from rounds").await;
        assert_eq!(rounds, 0);
    }
}

#[tokio::test]
async fn preparing_a_session_finds_missing_rows_and_moves_no_query() {
    for missing in ["settings", "last_query"] {
        let database = TestDatabase::new().await;
        let first = database.replica_session().await.answer().await.unwrap();
        let second = database.replica_session().await.answer().await.unwrap();
        assert_eq!(second.previous_at, Some(first.queried_at));
        database.run(&format!("delete from {missing}")).await;
        let third = database.connect(&database.api).await;
        let error = ChainSession::new(third).await.unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_read_only_primary_is_treated_like_a_standby() {
    let database = TestDatabase::new().await;
    database
        .run(&format!(
            "alter role max_two_api in database {} set default_transaction_read_only = on",
            database.name()
        ))
        .await;
    let api = Database::parse(&database.api, "test").unwrap();
    let error = api.connect(Duration::from_secs(10)).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    assert!(error.is_transient());
}
