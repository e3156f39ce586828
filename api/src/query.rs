//! What requests ask of the database, and the encoded bodies that answer them.
//!
//! All queries share one session, so a slow query delays the others. How to add a query:
//! `.github/CONTRIBUTING.md`, "An endpoint".

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{Error, Session};
use shared::domain::last_query::ChainSession;
use shared::domain::users::User;

use crate::problem::Problem;

/// The format of a time, which is in UTC.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S";

/// A query, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// `GET /`: two users that qualify, and the time of the previous query in the chain.
    TwoUsers,
}

/// The reply to a query: a body, or the problem that the client gets instead.
pub(crate) type Reply = Result<Bytes, Problem>;

/// The replies to all queries that one message answered. They differ where the order of the queries
/// shows in the body; otherwise `others` is a clone of `first`.
pub(crate) struct Replies {
    /// For the first of these queries.
    pub(crate) first: Reply,
    /// For every other one.
    pub(crate) others: Reply,
}

/// Prepares a new session, and checks that it can answer every kind of query.
///
/// # Errors
/// When it can't, or the connection breaks. The session is dropped.
pub(crate) async fn prepare(session: Session) -> Result<ChainSession, Error> {
    ChainSession::new(session).await
}

impl Query {
    /// Answers all queries that equal this one, with one message to the database.
    ///
    /// # Errors
    /// When the database can't be reached or a statement fails. Drop the session.
    pub(crate) async fn answer(self, chain: &mut ChainSession) -> Result<Replies, Error> {
        match self {
            Self::TwoUsers => {
                let answer = chain.answer().await?;
                let reply = |previous_at: Option<DateTime<Utc>>| {
                    Ok(encode(&TwoUsersBody {
                        users: &answer.users,
                        timestamp: previous_at.map(|at| at.format(TIME_FORMAT).to_string()),
                    }))
                };
                // The first query gets the time of the last query before this message. The others
                // get the message's own time, as if they had been answered one by one.
                Ok(Replies {
                    first: reply(answer.previous_at),
                    others: reply(Some(answer.queried_at)),
                })
            }
        }
    }
}

/// The body of an answer.
#[derive(Serialize)]
struct TwoUsersBody<'answer> {
    users: &'answer [User],
    timestamp: Option<String>,
}

fn encode(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("numbers and strings can be encoded")
        .into()
}
