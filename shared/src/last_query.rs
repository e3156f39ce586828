//! The chain of all queries, and the one statement that answers a query.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, raw_sql};

use crate::db::Error;
use crate::users::User;

/// The statement that [`answer`] sends, for those who want to explain it.
pub const ANSWER_SQL: &str = include_str!("last_query/answer.sql");

/// What a query learns, all from one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At most two users who qualify, in the order of their ids.
    pub users: Vec<User>,
    /// When the query before this one was answered; `None` for the very first.
    pub previous_at: Option<DateTime<Utc>>,
    /// When this one was: never before `previous_at`, and what the next one will get to know.
    pub queried_at: DateTime<Utc>,
}

/// Puts a query at the end of the chain and answers it, in one statement that commits by itself.
///
/// # Errors
/// When the database can't be reached, or the statement fails or is cut off: then nobody knows whether the chain moved
/// on, and the connection is to be dropped.
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

/// Has the server plan the statement and check our rights to it, without running it: schema and privileges are those that
/// an answer needs.
///
/// # Errors
/// When the database can't be reached, or lacks what the statement names.
pub async fn check(connection: &mut PgConnection) -> Result<(), Error> {
    raw_sql(concat!("explain ", include_str!("last_query/answer.sql")))
        .execute(connection)
        .await?;
    Ok(())
}
