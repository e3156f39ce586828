//! What requests ask of the database, and the encoded bodies that answer them.
//!
//! One message to the database answers all queued queries that are equal. All queries share one
//! session, so a slow query delays the others. How to add a query: `.github/CONTRIBUTING.md`, "An
//! endpoint".

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{self, Error, Session};
use shared::domain::last_query::ChainSession;
use shared::domain::users;

use crate::problem::Problem;

/// A query, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// `GET /`: two users that qualify, and the time of the previous query in the chain.
    TwoUsers,
}

/// The reply to a query: an encoded body, or the problem that the client gets instead.
pub(crate) type Reply = Result<Bytes, Problem>;

/// The replies to all queries that one message answered. They differ where the order of the queries
/// shows in the body; otherwise `others` is a clone of `first`.
pub(crate) struct Replies {
    /// For the first of these queries.
    pub(crate) first: Reply,
    /// For every other one.
    pub(crate) others: Reply,
}

/// The replica's session with the database, prepared for every kind of query.
pub(crate) struct PreparedSession(ChainSession);

impl PreparedSession {
    /// Prepares a session, and checks that every kind of query can be answered.
    ///
    /// # Errors
    /// When one can't, or the connection breaks. The session is dropped.
    pub(crate) async fn new(session: Session) -> Result<Self, Error> {
        Ok(Self(ChainSession::new(session).await?))
    }

    /// Checks that the database still responds.
    ///
    /// # Errors
    /// When it does not. Drop the session.
    pub(crate) async fn ping(&mut self) -> Result<(), Error> {
        db::ping(self.0.session()).await
    }

    /// Whether other replicas move the chain too, as far as the last answer tells.
    pub(crate) fn is_chain_shared(&self) -> bool {
        self.0.is_chain_shared()
    }

    /// Answers all queries that equal this one, with one message to the database.
    ///
    /// # Errors
    /// When the database can't be reached or a statement fails. Drop the session.
    pub(crate) async fn answer(&mut self, query: Query) -> Result<Replies, Error> {
        match query {
            Query::TwoUsers => {
                let answer = self.0.answer().await?;
                let reply =
                    |previous_at| Ok(encode(&TwoUsersBody::new(&answer.users, previous_at)));
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
pub(crate) struct TwoUsersBody {
    /// At most two users whose points are above the minimum, in the order of their ids.
    users: Vec<UserBody>,
    /// The time of the previous query, in UTC; null for the very first.
    timestamp: Option<String>,
}

/// A user.
#[derive(Serialize)]
pub(crate) struct UserBody {
    /// Positive.
    id: i64,
    /// Renewed by every round.
    points: i32,
}

impl TwoUsersBody {
    fn new(users: &[users::User], previous_at: Option<DateTime<Utc>>) -> Self {
        Self {
            users: users
                .iter()
                .map(|&users::User { id, points }| UserBody { id, points })
                .collect(),
            timestamp: previous_at.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()),
        }
    }
}

fn encode(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("numbers and strings can be encoded")
        .into()
}
