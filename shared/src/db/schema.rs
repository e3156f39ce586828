//! The database schema: migrations, forward only, embedded in the program.
//!
//! A statement that waits for a table's lock holds up all later statements on the table. So a
//! migration waits only briefly, rolls back, lets them pass and tries again. No request fails if
//! the api's `REQUEST_TIMEOUT` is well above that wait, as its default is.

use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migrator};
use tokio::time::sleep;
use tracing::warn;

use super::{Backoff, Error, Session};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// How long [`migrate`] tries to get its locks: longer than a dump of some million users takes.
const RETRY_TIMEOUT: Duration = Duration::from_mins(10);
/// The longest delay, before jitter, until the next attempt.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Applies the migrations that are missing. Concurrent calls run one after the other. While other
/// sessions use a table that a migration changes, it retries for ten minutes.
///
/// Needs a direct connection: it holds a session lock, which a pooler in transaction mode would
/// lose.
///
/// # Errors
/// When a migration fails or does not get its locks, the role may not create tables, or the
/// database has migrations that this program does not know.
pub async fn migrate(session: &mut Session) -> Result<(), Error> {
    // Other statements queue behind a lock that a migration waits for. The limit also bounds the
    // wait for sqlx's own lock: a statement that waits has a snapshot, and meanwhile rounds can't
    // prune.
    sqlx::query!("set lock_timeout = '200ms'")
        .execute(&mut *session)
        .await?;
    let started_at = Instant::now();
    let mut backoff = Backoff::new(MAX_RETRY_DELAY);
    let mut is_logged = false;
    loop {
        let error = match MIGRATIONS.run(&mut *session).await {
            Ok(()) => return Ok(()),
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                error.into()
            }
            Err(other) => Error::Unusable(format!(
                "the database schema does not match this program: {other}"
            )),
        };
        // sqlx rolls the failed transaction back before the session's next statement, which is this
        // one. It frees the lock that sqlx keeps after an error, for a concurrent migration.
        sqlx::query!("select pg_advisory_unlock_all()")
            .execute(&mut *session)
            .await?;
        if !error.is_lock_timeout() || started_at.elapsed() >= RETRY_TIMEOUT {
            return Err(error);
        }
        if !is_logged {
            is_logged = true;
            warn!(
                event = "migration_waiting",
                limit_seconds = RETRY_TIMEOUT.as_secs(),
                "other sessions use a table that a migration changes, or migrate; retrying"
            );
        }
        sleep(backoff.next_delay(&error)).await;
    }
}
