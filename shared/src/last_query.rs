//! The chain of all queries, and the one message that answers a query.
//!
//! [`prepare`] comes first in each session that is to [`answer`].

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Execute as _, FromRow, query_file_as, raw_sql};

use crate::db::{Error, Session};
use crate::users::User;

/// What [`answer`] sends, to a session that [`prepare`] has prepared.
///
/// It is one simple query: the server runs all its statements in one transaction, which ends with
/// the message. So no lock is held across a round trip, and an error leaves no transaction open.
///
/// The users are read by a statement of their own. Under READ COMMITTED, which every session must
/// have, it sees what is committed when it begins, and by then the first statement holds the row's
/// lock: the users are those of this place in the chain. Joined to the `update`, they would be
/// those from before its wait for the lock, older than what queries before it have shown.
pub const ANSWER_SQL: &str = "execute move_chain; execute read_users";

/// The answer to a query, all of it from one moment, that of its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At most two users that qualify, in the order of their ids.
    pub users: Vec<User>,
    /// When the previous query was answered; `None` for the very first.
    pub previous_at: Option<DateTime<Utc>>,
    /// When this query was answered: never before `previous_at`. It is the next answer's
    /// `previous_at`.
    pub queried_at: DateTime<Utc>,
}

/// The row that `move.sql` returns.
#[derive(FromRow)]
struct Move {
    previous_at: Option<DateTime<Utc>>,
    // The mark tells the compile-time check that it is never null.
    #[sqlx(rename = "queried_at!")]
    queried_at: DateTime<Utc>,
}

/// The row that `read.sql` returns.
#[derive(FromRow)]
struct ChosenUsers {
    first_id: Option<i64>,
    first_points: Option<i32>,
    second_id: Option<i64>,
    second_points: Option<i32>,
}

/// Prepares the session for [`answer`], and verifies that it works: sends the same and rolls it
/// back, so that the chain does not move on. That is one message, so the row's lock never waits for
/// this program.
///
/// # Errors
/// [`Error::RowMissing`] when there is no row to answer from; otherwise when the schema or our
/// privileges do not suffice, the database is read-only, or the connection breaks. Drop the
/// connection.
pub async fn prepare(session: &mut Session) -> Result<(), Error> {
    // sqlx checks no message of several statements. So their texts are checked here at compile
    // time, against the schema and the structs that `answer` decodes their rows into.
    let move_chain = query_file_as!(Move, "src/last_query/move.sql").sql();
    let read_users = query_file_as!(ChosenUsers, "src/last_query/read.sql").sql();
    raw_sql(AssertSqlSafe(format!(
        "prepare move_chain as {}; prepare read_users as {}",
        move_chain.as_str(),
        read_users.as_str(),
    )))
    .execute(&mut *session)
    .await?;
    let rehearsal = format!("begin; {ANSWER_SQL}; rollback");
    let rows = raw_sql(AssertSqlSafe(rehearsal)).fetch_all(session).await?;
    decode(&rows)?;
    Ok(())
}

/// Appends a query to the chain and answers it, in one transaction and one message to the server.
///
/// # Errors
/// When a statement fails or the connection breaks. Then it is unknown whether the chain moved on:
/// drop the connection.
pub async fn answer(session: &mut Session) -> Result<Answer, Error> {
    let rows = raw_sql(ANSWER_SQL).fetch_all(session).await?;
    decode(&rows)
}

/// Decodes a row of each statement.
fn decode(rows: &[PgRow]) -> Result<Answer, Error> {
    let [moved, chosen] = rows else {
        return Err(Error::RowMissing("settings or last_query"));
    };
    let moved = Move::from_row(moved)?;
    let chosen = ChosenUsers::from_row(chosen)?;
    let user = |id: Option<i64>, points: Option<i32>| {
        Some(User {
            id: id?,
            points: points?,
        })
    };
    let users = [
        user(chosen.first_id, chosen.first_points),
        user(chosen.second_id, chosen.second_points),
    ];
    Ok(Answer {
        users: users.into_iter().flatten().collect(),
        previous_at: moved.previous_at,
        queried_at: moved.queried_at,
    })
}
