//! The three roles, for databases that we make ourselves, by the scripts that an operator runs elsewhere:
//! `deploy/postgres/roles.sql` and `deploy/postgres/grants.sql`.

use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

use shared::db::Error;

/// Owns the database, migrates and seeds it.
pub const OWNER: &str = "max_two_owner";
/// Does the rounds.
pub const WORKER: &str = "max_two_worker";
/// Answers queries.
pub const API: &str = "max_two_api";

/// Makes the roles, all with the same password, and a database that belongs to the owner; what is there stays. The server
/// is nobody else's: no limit on connections keeps room for others.
///
/// # Errors
/// When the session is not a superuser's.
///
/// # Panics
/// When the password holds anything but ASCII letters and digits, or the database's name anything but these and `_`.
pub async fn create(
    connection: &mut PgConnection,
    password: &str,
    database: &str,
) -> Result<(), Error> {
    assert!(
        password
            .chars()
            .all(|character| character.is_ascii_alphanumeric()),
        "a password of ours"
    );
    assert!(
        database
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_'),
        "a database of ours"
    );
    raw_sql(include_str!("../../../postgres/roles.sql"))
        .execute(&mut *connection)
        .await?;
    for role in [OWNER, WORKER, API] {
        // Safe: both are checked above.
        raw_sql(AssertSqlSafe(format!(
            "alter role {role} password '{password}' connection limit -1"
        )))
        .execute(&mut *connection)
        .await?;
    }
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(database)
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        raw_sql(AssertSqlSafe(format!(
            "create database {database} owner {OWNER}"
        )))
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Gives each role what it needs of the migrated database, and takes everything else.
///
/// # Errors
/// When the session is not a superuser's, or a table is missing.
pub async fn grant(connection: &mut PgConnection) -> Result<(), Error> {
    raw_sql(include_str!("../../../postgres/grants.sql"))
        .execute(connection)
        .await?;
    Ok(())
}
