//! The message that answers a query, in two forms: its statements, prepared once in a session, and
//! the rows that they return. Public for tests and the benchmark only; all others use
//! [`ChainSession`](super::ChainSession).

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Execute as _, Row as _, query_file, raw_sql};

use super::Answer;
use crate::db::{Error, Session};

/// Answers a query in one simple query message: the server runs both statements in one transaction,
/// which ends with the message. No lock is held across a round trip, and an error leaves no
/// transaction open.
///
/// A second statement reads the users. Under READ COMMITTED, which every session has, it sees what
/// is committed when it begins. By then the first statement holds the row's lock, so the users are
/// those of this place in the chain. Joined to the `update`, they would be from before its wait for
/// the lock, and perhaps older than those in earlier answers of the chain.
pub const SINGLE_COMMIT: &str = "execute move_chain; execute read_users";

/// Answers a query with early lock release (Johnson et al., "Aether", VLDB 2010, section 4), while
/// other sessions move the chain too. [`SINGLE_COMMIT`] holds the row's lock while its commit
/// waits for the disk and the synchronous standby, so all sessions wait for each other's disk
/// writes.
///
/// Here the first commit does not wait, which frees the row. The second, of `make_durable`, waits
/// together with the commits of all other sessions. The write-ahead log is one sequence, so the
/// second commit makes the first durable, and with it all earlier moves of the chain. A crash
/// between the two loses only moves whose answers were not sent yet.
///
/// After an error the transaction stays open, without locks: drop the session.
pub const EARLY_LOCK_RELEASE: &str = "begin; set local synchronous_commit = off; \
    execute move_chain; execute read_users; commit; execute make_durable";

/// Prepares the statements of both messages in a session. Then a trial verifies that they work: it
/// answers a query and rolls back, so the chain does not move on. The trial is one message, so the
/// row is never locked while the server waits for this program.
///
/// # Errors
/// When there is no row to answer from, the schema or our privileges do not suffice, the database
/// is read-only, or the connection breaks. Drop the session.
pub async fn prepare(session: &mut Session) -> Result<(), Error> {
    // sqlx checks no message of several statements. So their texts are checked here against the
    // schema, at compile time; the types of their rows are checked by the trial below.
    let move_chain = query_file!("src/domain/last_query/move.sql").sql();
    let read_users = query_file!("src/domain/last_query/read.sql").sql();
    let make_durable = query_file!("src/domain/last_query/make_durable.sql").sql();
    raw_sql(AssertSqlSafe(format!(
        "prepare move_chain as {}; prepare read_users as {}; prepare make_durable as {}",
        move_chain.as_str(),
        read_users.as_str(),
        make_durable.as_str(),
    )))
    .execute(&mut *session)
    .await?;
    let trial = format!("begin; {SINGLE_COMMIT}; execute make_durable; rollback");
    let rows = raw_sql(AssertSqlSafe(trial)).fetch_all(session).await?;
    decode(&rows)?;
    Ok(())
}

/// Sends one of the messages to a session that [`prepare`] has prepared.
///
/// # Errors
/// Those of [`ChainSession::answer`](super::ChainSession::answer).
pub async fn send(session: &mut Session, message: &'static str) -> Result<Answer, Error> {
    decode(&raw_sql(message).fetch_all(session).await?)
}

/// Decodes the row of `move_chain` and that of `read_users`.
fn decode(rows: &[PgRow]) -> Result<Answer, Error> {
    let [moved, shown] = rows else {
        return Err(Error::row_missing("settings or last_query"));
    };
    let Json(users) = shown.try_get("users")?;
    Ok(Answer {
        users,
        previous_at: moved.try_get("previous_at")?,
        queried_at: moved.try_get("queried_at")?,
    })
}
