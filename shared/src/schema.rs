//! The database schema: migrations, forward only, embedded in the program.

use sqlx::PgConnection;
use sqlx::migrate::{MigrateError, Migrator};

use crate::db::Error;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Applies the migrations that are missing. Concurrent calls run one after the other.
///
/// Needs a direct connection: it holds a session lock, which a pooler in transaction mode would
/// lose.
///
/// # Errors
/// When a migration fails, the role may not create tables, or the database has migrations that this
/// program does not know.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), Error> {
    // A concurrent migration may hold sqlx's lock for longer than our lock_timeout.
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
