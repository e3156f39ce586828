//! The schema: its migrations, forward only, embedded in the program.

use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};

use crate::db::Error;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Brings the schema up to date; does nothing where it is. A second one at the same time waits for the first.
///
/// Needs a direct connection: it holds a lock of its session, which a pooler in transaction mode would lose.
///
/// # Errors
/// When the database can't be reached, the role may not create tables, or the database's schema is not one of ours.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    // However long another one takes: sqlx's lock is a session's, and counts as one.
    sqlx::query!("set lock_timeout = 0")
        .execute(&mut *connection)
        .await?;
    MIGRATIONS
        .run(connection)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
            other => Error::Schema(other.to_string()),
        })
}
