//! What requests ask of the database, and the encoded bodies that answer them.
//!
//! Each kind of query is one transaction, which answers all queued queries of its kind at once. An
//! endpoint that needs the database gets a variant here. The queue and the session stay as they
//! are, but all kinds share them: a slow kind delays the others.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{Error, Session};
use shared::{last_query, users};
use strum::VariantArray;
use utoipa::ToSchema;

use crate::problem::Problem;

/// A kind of query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub(crate) enum QueryKind {
    /// `GET /`: two users who qualify, and the time of the previous query in the chain.
    TwoUsers,
}

/// The reply to a query: an encoded body, or the problem that the client gets instead.
pub(crate) type Reply = Result<Bytes, Problem>;

/// The replies to all queries that one transaction answered.
pub(crate) struct Replies {
    /// For the first query of the batch.
    pub(crate) first: Reply,
    /// For every other one.
    pub(crate) others: Reply,
}

impl QueryKind {
    /// Prepares a session for this kind of query, and checks that it can be answered.
    ///
    /// # Errors
    /// When it can't, or the connection breaks; the connection is to be dropped.
    pub(crate) async fn prepare(self, session: &mut Session) -> Result<(), Error> {
        match self {
            Self::TwoUsers => last_query::prepare(session).await,
        }
    }

    /// Answers this kind of query, with one transaction.
    ///
    /// # Errors
    /// When the database can't be reached or a statement fails; the connection is to be dropped.
    pub(crate) async fn answer(self, session: &mut Session) -> Result<Replies, Error> {
        match self {
            Self::TwoUsers => {
                let row = last_query::answer(session).await?;
                let reply = |previous_at| Ok(encode(&AnswerBody::new(&row.users, previous_at)));
                // The first query gets the time of the last query before this transaction. The
                // others get the transaction's own time, as if they had been answered one by one.
                Ok(Replies {
                    first: reply(row.previous_at),
                    others: reply(Some(row.queried_at)),
                })
            }
        }
    }
}

/// The body of an answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Answer, title = "Answer")]
pub(crate) struct AnswerBody {
    /// At most two users whose points are above the minimum, in the order of their ids.
    #[schema(max_items = 2)]
    users: Vec<UserBody>,
    /// When the previous query was answered, in UTC; null for the very first.
    #[schema(
        example = "2020-07-30 17:09:33",
        pattern = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
    )]
    timestamp: Option<String>,
}

/// A user.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserBody {
    /// Positive.
    #[schema(minimum = 1)]
    id: i64,
    /// Renewed by every round.
    #[schema(minimum = 0, maximum = 100)]
    points: i32,
}

impl AnswerBody {
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
