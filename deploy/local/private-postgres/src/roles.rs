//! The three roles in a private server, created by the scripts that operators run on theirs:
//! `deploy/postgres/roles.sql` and `deploy/postgres/grants.sql`.

use shared::db::{Error, Session};
use sqlx::{AssertSqlSafe, raw_sql};

/// Owns the database, migrates and seeds it.
pub const OWNER: &str = "max_two_owner";
/// Does the rounds.
pub const WORKER: &str = "max_two_worker";
/// Answers queries.
pub const API: &str = "max_two_api";

/// Creates the roles, all with the same password, and a database that belongs to the owner. What
/// exists already stays. The roles get no connection limit, because nothing else uses the server.
///
/// # Errors
/// When the session is not a superuser's.
///
/// # Panics
/// When the password or the database's name holds anything but ASCII letters, digits and `_`.
pub async fn create(session: &mut Session, password: &str, database: &str) -> Result<(), Error> {
    let is_plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    assert!(
        is_plain(password) && is_plain(database),
        "they go into SQL text"
    );
    raw_sql(include_str!("../../../postgres/roles.sql"))
        .execute(&mut *session)
        .await?;
    for role in [OWNER, WORKER, API] {
        // Safe: both are checked above.
        raw_sql(AssertSqlSafe(format!(
            "alter role {role} password '{password}' connection limit -1"
        )))
        .execute(&mut *session)
        .await?;
    }
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(database)
            .fetch_one(&mut *session)
            .await?;
    if !exists {
        raw_sql(AssertSqlSafe(format!(
            "create database {database} owner {OWNER}"
        )))
        .execute(session)
        .await?;
    }
    Ok(())
}

/// Grants each role what it needs in the migrated database, and revokes everything else.
///
/// # Errors
/// When the session is not a superuser's, or a table is missing.
pub async fn grant(session: &mut Session) -> Result<(), Error> {
    raw_sql(include_str!("../../../postgres/grants.sql"))
        .execute(session)
        .await?;
    Ok(())
}
