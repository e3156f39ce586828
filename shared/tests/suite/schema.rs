//! Migrations: while a long transaction reads their table, and beside the previous release.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::db::schema::migrate;
use sqlx::raw_sql;
use testkit::{TestDatabase, eventually, sql};
use tokio::time::timeout;

/// How long a query may take. A replica with the default `REQUEST_TIMEOUT` is promised less, but
/// other tests load the machine.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_migration_lets_queries_pass_while_a_long_transaction_reads_its_table() {
    let database = TestDatabase::new().await;
    // As before the migration that adds a constraint to `last_query`.
    database
        .run(
            "alter table last_query \
                 drop constraint last_query_queried_at_is_of_the_years_1_to_9999; \
             delete from _sqlx_migrations where version = 9",
        )
        .await;
    let is_migrated = "select exists (select from _sqlx_migrations where version = 9 and success)";
    // Reads `last_query` in a transaction that stays open, as a dump does.
    let mut dump = database.begin("select from last_query").await;
    let mut first = database.connect(&database.owner_url).await;
    let mut second = database.connect(&database.owner_url).await;

    let mut api = database.connect(&database.api_url).await;
    let queries = tokio::spawn(async move {
        loop {
            let query = raw_sql("select queried_at from last_query").execute(&mut api);
            timeout(QUERY_TIMEOUT, query)
                .await
                .expect("no query waits behind the migration")
                .unwrap();
        }
    });
    let release_after_three_attempts = async {
        let mut attempts = HashSet::new();
        eventually("three attempts, or a query that failed", async || {
            let waiting: Vec<DateTime<Utc>> = database
                .value(
                    "select array( \
                         select waitstart from pg_locks \
                         where relation = 'last_query'::regclass and mode = 'AccessExclusiveLock' \
                           and not granted and waitstart is not null \
                     )",
                )
                .await;
            attempts.extend(waiting);
            attempts.len() >= 3 || queries.is_finished()
        })
        .await;
        sql::run(&mut dump, "commit").await;
    };
    let (first, second, ()) = tokio::join!(
        migrate(&mut first),
        migrate(&mut second),
        release_after_three_attempts
    );
    first.unwrap();
    second.unwrap();
    queries.abort();
    let end = queries.await.unwrap_err();
    assert!(end.is_cancelled(), "{end}");
    assert!(database.value::<bool>(is_migrated).await);
}

/// Until the next release drops the columns, programs that use them and those that use
/// `shown_users` agree.
#[tokio::test]
async fn shown_users_and_the_columns_of_the_previous_release_follow_each_other() {
    let database = TestDatabase::new().await;
    for (update, expected) in [
        (
            r#"shown_users = '[{"id": 7, "points": 60}, {"id": 8, "points": 61}]'"#,
            r#"7 60 8 61 [{"id": 7, "points": 60}, {"id": 8, "points": 61}]"#,
        ),
        // By a worker of that release.
        (
            "(first_user_id, first_points, second_user_id, second_points) = (8, 20, null, null)",
            r#"8 20 [{"id": 8, "points": 20}]"#,
        ),
        ("min_points = 0", r#"8 20 [{"id": 8, "points": 20}]"#),
        ("shown_users = '[]'", "[]"),
    ] {
        let update = format!("update settings set {update}");
        database.run(&update).await;
        let all = "concat_ws(' ', first_user_id, first_points, second_user_id, second_points, \
                              shown_users)";
        let all: String = database.value(&format!("select {all} from settings")).await;
        assert_eq!(all, expected, "{update}");
    }
}
