//! Sessions do not depend on the defaults that the server, the database and the role bring.

use std::time::Duration;

use shared::db::{Database, Error, Session, close};
use shared::domain::last_query::ChainSession;
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use sqlx::{AssertSqlSafe, raw_sql};
use testkit::TestDatabase;
use tokio::task::JoinSet;

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
async fn a_session_ignores_the_defaults_of_its_role_and_database() {
    let database = TestDatabase::new().await;
    let name = database.name();
    let known: Vec<String> = database.values("select lower(name) from pg_settings").await;
    for (setting, hostile, expected) in HOSTILE_DEFAULTS {
        // `transaction_timeout` is new in Postgres 17.
        if !known.iter().any(|known| known == setting) {
            continue;
        }
        for (url, role) in [
            (&database.owner, "max_two_owner"),
            (&database.worker, "max_two_worker"),
            (&database.api, "max_two_api"),
        ] {
            // In this database alone, because all tests share the roles.
            let alter = format!("alter role {role} in database {name}");
            database
                .run(&format!("{alter} set {setting} = '{hostile}'"))
                .await;
            let mut session = database.connect(url).await;
            let actual: String = sqlx::query_scalar("select current_setting($1)")
                .bind(setting)
                .fetch_one(&mut session)
                .await
                .unwrap();
            close(session).await;
            database.run(&format!("{alter} reset {setting}")).await;
            assert_eq!(actual, expected, "{setting} of {role}");
        }
    }
}

#[tokio::test]
async fn concurrent_answers_do_not_fail_by_the_databases_isolation_level() {
    let database = TestDatabase::with_users(10).await;
    for level in ["repeatable read", "serializable"] {
        database
            .run(&format!(
                "alter database {} set default_transaction_isolation = '{level}'",
                database.name()
            ))
            .await;
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let mut api = database.replica_session().await;
            clients.spawn(async move {
                for _ in 0..200 {
                    api.answer().await.unwrap();
                }
            });
        }
        clients.join_all().await;
    }
}

#[tokio::test]
async fn a_round_fails_if_row_security_hides_users_from_it() {
    let database = TestDatabase::with_users(10).await;
    database
        .run("alter table users enable row level security")
        .await;
    assert_round_fails(&database, "row-level security").await;
}

#[tokio::test]
async fn a_round_fails_if_the_row_that_it_should_change_is_missing() {
    let database = TestDatabase::with_users(10).await;
    database.run("delete from settings").await;
    assert_round_fails(&database, "settings").await;
}

/// A round fails for a reason that does not pass by itself, and leaves no row behind.
async fn assert_round_fails(database: &TestDatabase, reason: &str) {
    let mut worker = database.connect(&database.worker).await;
    let error = rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        MinPoints::draw(),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
    assert!(!error.is_transient());
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
}

#[tokio::test]
async fn preparing_a_session_finds_missing_rows_and_moves_no_query() {
    for missing in ["settings", "last_query"] {
        let database = TestDatabase::new().await;
        let mut first = database.replica_session().await;
        let answered = first.answer().await.unwrap();
        let mut second = database.replica_session().await;
        assert_eq!(
            second.answer().await.unwrap().previous_at,
            Some(answered.queried_at)
        );
        database.run(&format!("delete from {missing}")).await;
        let third = database.connect(&database.api).await;
        let error = ChainSession::new(third).await.unwrap_err();
        assert!(error.to_string().contains(missing), "{error}");
        assert!(!error.is_transient());
    }
}

async fn connect(url: &str) -> Result<Session, Error> {
    let database = Database::parse(url, "test").unwrap();
    database.connect(Duration::from_secs(10)).await
}

#[tokio::test]
async fn a_read_only_primary_is_treated_like_a_standby() {
    let database = TestDatabase::new().await;
    let name = database.name();
    for target in [
        format!("database {name}"),
        format!("role max_two_api in database {name}"),
    ] {
        database
            .run(&format!(
                "alter {target} set default_transaction_read_only = on"
            ))
            .await;
        let error = connect(&database.api).await.unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
        assert!(error.is_transient());
        // Over another database: this one refuses the superuser, too.
        let url = database.server.lock().await.url("postgres", "postgres");
        let mut superuser = connect(&url).await.unwrap();
        raw_sql(AssertSqlSafe(format!(
            "alter {target} reset default_transaction_read_only"
        )))
        .execute(&mut superuser)
        .await
        .unwrap();
        connect(&database.api).await.unwrap();
    }
}
