//! What the owner's, the worker's and the api's role may do, and the defaults and limits that
//! `deploy/postgres` gives them.

use std::fs;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tempfile::NamedTempFile;
use testkit::TestDatabase;

const VERBS: [&str; 7] = [
    "select",
    "insert",
    "update",
    "delete",
    "truncate",
    "drop table",
    "lock table",
];
/// What each role may do with each table. Everything else must fail, but for rights to single
/// columns.
const ALLOWED: [(&str, &str, &[&str]); 15] = [
    ("api", "users", &[]),
    ("api", "settings", &["select"]),
    ("api", "last_query", &["select", "update"]),
    ("api", "rounds", &[]),
    ("worker", "users", &["select", "update"]),
    ("worker", "settings", &["select", "update"]),
    ("worker", "last_query", &[]),
    ("worker", "rounds", &["select", "insert", "delete"]),
    ("api", "_sqlx_migrations", &[]),
    ("worker", "_sqlx_migrations", &[]),
    ("owner", "users", &VERBS),
    ("owner", "settings", &VERBS),
    ("owner", "last_query", &VERBS),
    ("owner", "rounds", &VERBS),
    ("owner", "_sqlx_migrations", &VERBS),
];

fn statement(verb: &str, table: &str) -> String {
    let (column, value) = match table {
        "users" => ("points", "1"),
        "settings" => ("min_points", "1"),
        "last_query" => ("queried_at", "now()"),
        "rounds" => ("users_updated", "1"),
        _ => ("success", "true"),
    };
    match verb {
        "select" => format!("select * from {table}"),
        "insert" if table == "rounds" => {
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values (now(), true, now(), now(), 0)"
                .to_owned()
        }
        "insert" => format!("insert into {table} default values"),
        "update" => format!("update {table} set {column} = {value}"),
        "delete" => format!("delete from {table} where true"),
        verb => format!("{verb} {table}"),
    }
}

#[tokio::test]
async fn a_role_can_do_what_it_needs_and_nothing_else() {
    let database = TestDatabase::with_users(3).await;
    for (role, table, allowed) in ALLOWED {
        let url = match role {
            "api" => &database.api,
            "worker" => &database.worker,
            _ => &database.owner,
        };
        let mut session = database.connect(url).await;
        for verb in VERBS {
            let mut transaction = session.begin().await.unwrap();
            let result = sqlx::query(AssertSqlSafe(statement(verb, table)))
                .execute(&mut *transaction)
                .await;
            transaction.rollback().await.unwrap();
            let code = result.err().map(|error| {
                let error = error.as_database_error().and_then(DatabaseError::code);
                error.unwrap_or_default().into_owned()
            });
            match code.as_deref() {
                Some("42501") => assert!(!allowed.contains(&verb), "{role} can't {verb} {table}"),
                // The role is allowed to; only this row broke a constraint.
                None | Some("23502" | "23505") => assert!(
                    allowed.contains(&verb) || verb == "lock table" && !allowed.is_empty(),
                    "{role} can {verb} {table}"
                ),
                Some(code) => panic!("{role} {verb} {table}: {code}"),
            }
        }
    }
}

#[tokio::test]
async fn no_role_has_server_privileges() {
    let database = TestDatabase::new().await;
    for url in [&database.owner, &database.worker, &database.api] {
        let mut session = database.connect(url).await;
        let is_unprivileged: bool = sqlx::query_scalar(
            "select not (rolsuper or rolcreatedb or rolcreaterole \
                         or rolreplication or rolbypassrls) \
             and not exists (select from pg_auth_members where member = pg_roles.oid) \
             from pg_roles where rolname = current_user",
        )
        .fetch_one(&mut session)
        .await
        .unwrap();
        assert!(is_unprivileged, "{url}");
    }
}

#[tokio::test]
async fn columns_that_no_program_writes_cannot_be_written() {
    let database = TestDatabase::with_users(3).await;
    for (url, statement) in [
        (&database.worker, "update users set id = id + 10"),
        (&database.worker, "update users set inserted_at = now()"),
        (&database.worker, "update rounds set users_updated = 0"),
        (&database.worker, "create table mine ()"),
        (&database.api, "update last_query set only_row = false"),
        (&database.api, "create table mine ()"),
    ] {
        let mut session = database.connect(url).await;
        let error = sqlx::query(statement)
            .execute(&mut session)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("permission denied"),
            "{statement}: {error}"
        );
    }
}

#[tokio::test]
async fn the_api_cannot_take_any_advisory_lock() {
    let database = TestDatabase::new().await;
    let mut session = database.connect(&database.api).await;
    for function in [
        "pg_advisory_lock(1)",
        "pg_try_advisory_lock(1)",
        "pg_try_advisory_xact_lock(1)",
        "pg_advisory_xact_lock(1, 1)",
        "pg_advisory_lock_shared(1)",
    ] {
        let error = sqlx::query(AssertSqlSafe(format!("select {function}")))
            .execute(&mut session)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("permission denied"),
            "{function}: {error}"
        );
    }
}

/// Runs `grants.sql`, and returns the server's warnings, one a line.
async fn grant(url: &str) -> String {
    let warnings = NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(Arc::new(warnings.reopen().unwrap()))
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let mut session = PgConnection::connect(url).await.unwrap();
    raw_sql(include_str!("../../../deploy/postgres/grants.sql"))
        .execute(&mut session)
        .await
        .unwrap();
    drop(guard);
    fs::read_to_string(warnings.path()).unwrap()
}

#[tokio::test]
async fn an_owner_who_runs_the_grants_is_told_once_what_only_a_superuser_can_revoke() {
    let database = TestDatabase::new().await;
    // As in a new database.
    database
        .run(
            "do $$ \
             declare lock regprocedure; \
             begin \
                 for lock in select oid from pg_proc where proname like 'pg%advisory%' loop \
                     execute format('grant execute on function %s to public', lock); \
                 end loop; \
             end $$",
        )
        .await;
    let warnings = grant(&database.owner).await;
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(
        warnings.contains("only a superuser can revoke that"),
        "{warnings}"
    );
    let superuser = database
        .server
        .lock()
        .await
        .url("postgres", database.name());
    assert_eq!(grant(&superuser).await, "");
    // Now there is nothing left that only a superuser can do.
    assert_eq!(grant(&database.owner).await, "");
}

#[tokio::test]
async fn the_grants_leave_other_tables_in_the_schema_alone() {
    let database = TestDatabase::new().await;
    database
        .run("create table not_ours (); grant select on not_ours to public, max_two_worker")
        .await;
    let superuser = database
        .server
        .lock()
        .await
        .url("postgres", database.name());
    grant(&superuser).await;
    for role in ["max_two_api", "max_two_worker"] {
        let may_select = format!("select has_table_privilege('{role}', 'not_ours', 'select')");
        assert!(database.value::<bool>(&may_select).await, "{role}");
    }
}

#[tokio::test]
async fn a_role_has_the_session_settings_of_the_programs_by_default() {
    const SETTINGS: &str = "select string_agg(name || ' = ' || setting, ', ' order by name) \
        from pg_settings where name in ( \
            'default_transaction_isolation', 'row_security', 'statement_timeout', \
            'idle_session_timeout', 'transaction_timeout', 'client_min_messages', \
            'jit', 'client_connection_check_interval', 'tcp_keepalives_idle', \
            'tcp_keepalives_interval', 'tcp_keepalives_count', 'tcp_user_timeout', \
            'lock_timeout' \
        )";
    let database = TestDatabase::new().await;
    for url in [&database.worker, &database.api] {
        let mut plain = PgConnection::connect(url).await.unwrap();
        let mut ours = database.connect(url).await;
        let by_default: String = sqlx::query_scalar(SETTINGS)
            .fetch_one(&mut plain)
            .await
            .unwrap();
        let requested: String = sqlx::query_scalar(SETTINGS)
            .fetch_one(&mut ours)
            .await
            .unwrap();
        assert_eq!(by_default, requested);
        assert!(by_default.contains("lock_timeout = 5000"), "{by_default}");
    }
}

// A role's defaults hold for the sessions that a Citus coordinator opens with its nodes, which are
// idle in a transaction while they wait for the slowest node.
#[tokio::test]
async fn only_the_programs_own_sessions_end_when_they_are_idle_in_a_transaction() {
    const TIMEOUT: &str =
        "select setting from pg_settings where name = 'idle_in_transaction_session_timeout'";
    let database = TestDatabase::new().await;
    // As a former release's roles.sql left it.
    database
        .run("alter role max_two_worker set idle_in_transaction_session_timeout = '8s'")
        .await;
    database
        .run(include_str!("../../../deploy/postgres/roles.sql"))
        .await;
    for url in [&database.worker, &database.api] {
        let mut plain = PgConnection::connect(url).await.unwrap();
        let mut ours = database.connect(url).await;
        let by_default: String = sqlx::query_scalar(TIMEOUT)
            .fetch_one(&mut plain)
            .await
            .unwrap();
        let requested: String = sqlx::query_scalar(TIMEOUT)
            .fetch_one(&mut ours)
            .await
            .unwrap();
        assert_eq!((&*by_default, &*requested), ("0", "8000"));
    }
}

#[tokio::test]
async fn the_roles_connection_limits_fit_a_server_with_default_settings() {
    let database = TestDatabase::new().await;
    let mut superuser = database.superuser().await;
    // As on a server without the roles. Rolled back, so that other tests do not see it.
    let mut transaction = superuser.begin().await.unwrap();
    for role in ["owner", "worker", "api"] {
        sqlx::query(AssertSqlSafe(format!(
            "alter role max_two_{role} rename to max_two_{role}_before"
        )))
        .execute(&mut *transaction)
        .await
        .unwrap();
    }
    raw_sql(include_str!("../../../deploy/postgres/roles.sql"))
        .execute(&mut *transaction)
        .await
        .unwrap();
    let limits: Vec<i32> = sqlx::query_scalar(
        "select rolconnlimit from pg_roles \
         where rolname in ('max_two_owner', 'max_two_worker', 'max_two_api')",
    )
    .fetch_all(&mut *transaction)
    .await
    .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(limits.len(), 3);
    assert!(limits.iter().all(|&limit| limit > 0), "{limits:?}");
    let (max_connections, superuser_reserved_connections) = (100, 3);
    assert!(
        limits.iter().sum::<i32>() <= max_connections - superuser_reserved_connections,
        "{limits:?}"
    );
}
