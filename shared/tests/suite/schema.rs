//! Migrations while a long transaction reads their table: queries pass, and an attempt that gets no
//! lock changes nothing.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::db::Session;
use shared::db::schema::{migrate, migrate_within};
use sqlx::raw_sql;
use testkit::{TestDatabase, eventually};
use tokio::time::timeout;

/// How long a query may take. Less is promised to a replica with the default `REQUEST_TIMEOUT`, but
/// other tests load the machine.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// An empty database without the migration that adds the columns for points to `settings`.
async fn database_before_points() -> TestDatabase {
    let database = TestDatabase::new().await;
    database
        .run(
            "alter table settings drop column first_points, drop column second_points; \
             delete from _sqlx_migrations where version = 5",
        )
        .await;
    database
}

/// Reads `settings` in a transaction that stays open, as a dump does.
async fn start_dump(database: &TestDatabase) -> Session {
    let mut dump = database.superuser().await;
    raw_sql(
        "set idle_in_transaction_session_timeout = 0; \
         begin isolation level repeatable read; select from settings",
    )
    .execute(&mut dump)
    .await
    .unwrap();
    dump
}

/// Whether the migration that [`database_before_points`] lacks has been applied.
async fn is_migrated(database: &TestDatabase) -> bool {
    database
        .value("select exists (select from _sqlx_migrations where version = 5 and success)")
        .await
}

#[tokio::test]
async fn a_migration_lets_queries_pass_while_a_long_transaction_reads_its_table() {
    let database = database_before_points().await;
    let mut dump = start_dump(&database).await;
    let mut first = database.connect(&database.owner).await;
    let mut second = database.connect(&database.owner).await;
    let mut api = database.connect(&database.api).await;
    let queries = tokio::spawn(async move {
        loop {
            let query = raw_sql("select min_points from settings").execute(&mut api);
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
                .values(
                    "select waitstart from pg_locks \
                     where relation = 'settings'::regclass and mode = 'AccessExclusiveLock' \
                       and not granted and waitstart is not null",
                )
                .await;
            attempts.extend(waiting);
            attempts.len() >= 3 || queries.is_finished()
        })
        .await;
        raw_sql("commit").execute(&mut dump).await.unwrap();
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
    assert!(is_migrated(&database).await);
}

#[tokio::test]
async fn a_migration_that_gets_no_lock_gives_up_after_its_limit_and_changes_nothing() {
    let database = database_before_points().await;
    let mut dump = start_dump(&database).await;
    let mut owner = database.connect(&database.owner).await;
    let error = migrate_within(&mut owner, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.is_lock_timeout(), "{error}");
    assert!(!is_migrated(&database).await);
    raw_sql("commit").execute(&mut dump).await.unwrap();
    // The session that gave up still lives. It holds no lock.
    let mut second = database.connect(&database.owner).await;
    migrate(&mut second).await.unwrap();
    migrate(&mut owner).await.unwrap();
    assert!(is_migrated(&database).await);
}
