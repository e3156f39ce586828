//! The chain of all queries, and the one statement that answers a query.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, raw_sql};

use crate::db::Error;
use crate::users::User;

/// The statement that [`answer`] sends, for `explain`.
pub const ANSWER_SQL: &str = include_str!("last_query/answer.sql");

/// The answer to a query, all of it from one snapshot.
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

/// Appends a query to the chain and answers it, in one autocommit statement.
///
/// # Errors
/// When the statement fails or the connection breaks. Then it is unknown whether the chain moved
/// on: drop the connection.
pub async fn answer(connection: &mut PgConnection) -> Result<Answer, Error> {
    let row = sqlx::query_file!("src/last_query/answer.sql")
        .fetch_one(connection)
        .await?;
    let user = |id: Option<i64>, points: Option<i32>| {
        Some(User {
            id: id?,
            points: points?,
        })
    };
    let users = [
        user(row.first_id, row.first_points),
        user(row.second_id, row.second_points),
    ];
    Ok(Answer {
        users: users.into_iter().flatten().collect(),
        previous_at: row.previous_at,
        queried_at: row.queried_at,
    })
}

/// Verifies that [`answer`] works: runs its statement and rolls it back, so that the chain does not
/// move on. It is sent as one message, so the row's lock never waits for this program.
///
/// # Errors
/// [`Error::RowMissing`] when there is no row to answer from; otherwise when the schema or our
/// privileges do not suffice, the database is read-only, or the connection breaks. Drop the
/// connection.
pub async fn check(connection: &mut PgConnection) -> Result<(), Error> {
    let answer = raw_sql(concat!(
        "begin; ",
        include_str!("last_query/answer.sql"),
        "; rollback"
    ))
    .fetch_optional(connection)
    .await?;
    match answer {
        Some(_) => Ok(()),
        None => Err(Error::RowMissing("settings or last_query")),
    }
}
