//! What requests ask of the database, and the encoded bodies that answer them.
//!
//! Each kind of query is one statement, which answers all queued queries of its kind at once. An
//! endpoint that needs the database gets a variant here; nothing else in the queue, the batch or
//! the session changes.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{Error, Session};
use shared::{last_query, users};
use utoipa::ToSchema;

/// A kind of query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryKind {
    /// `GET /`: two users who qualify, and the time of the previous query in the chain.
    TwoUsers,
}

/// The encoded bodies for all queries that one statement answered.
pub(crate) struct Bodies {
    /// For the first query of the batch.
    pub(crate) first: Bytes,
    /// For every other one.
    pub(crate) others: Bytes,
}

impl QueryKind {
    /// All of them, for the preparation of a new session.
    pub(crate) const ALL: [Self; 1] = [Self::TwoUsers];

    /// Prepares a session for this kind of query, and checks that it can be answered.
    ///
    /// # Errors
    /// When it can't, or the connection breaks; the connection is to be dropped.
    pub(crate) async fn prepare(self, session: &mut Session) -> Result<(), Error> {
        match self {
            Self::TwoUsers => last_query::prepare(session).await,
        }
    }

    /// Runs the transaction of this kind of query.
    ///
    /// # Errors
    /// When the database can't be reached or the statement fails; the connection is to be dropped.
    pub(crate) async fn run(self, session: &mut Session) -> Result<Bodies, Error> {
        match self {
            Self::TwoUsers => {
                let row = last_query::answer(session).await?;
                let body = |previous_at| encode(&AnswerBody::new(&row.users, previous_at));
                // The first query gets the time of the last query before this statement. The others
                // get the statement's own time, as if they had been answered one by one.
                Ok(Bodies {
                    first: body(row.previous_at),
                    others: body(Some(row.queried_at)),
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
