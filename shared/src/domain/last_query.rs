//! The chain of all queries: a session that moves it on and answers.
//!
//! An answer is durable before [`ChainSession::answer`] returns it. If the session ends before
//! that, the query may stay in the chain or not: no client has seen its answer.

pub mod message;

use chrono::{DateTime, Utc};

use crate::db::{Error, Session};
use crate::domain::users::User;

/// The answer to a query, all of it from one moment, that of its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// At most two users that qualify, in the order of their ids.
    pub users: Vec<User>,
    /// The time of the previous query; `None` for the very first.
    pub previous_at: Option<DateTime<Utc>>,
    /// The time of this query: never before `previous_at`. It is the next answer's `previous_at`.
    pub queried_at: DateTime<Utc>,
}

/// A session that answers queries, and whether other sessions move the chain too.
#[derive(Debug)]
pub struct ChainSession {
    session: Session,
    /// The time of this session's last query.
    last_queried_at: Option<DateTime<Utc>>,
    /// What [`Self::is_chain_shared`] returns.
    is_chain_shared: bool,
}

impl ChainSession {
    /// Prepares a session to answer queries.
    ///
    /// # Errors
    /// Those of [`message::prepare`]. The session is dropped.
    pub async fn new(mut session: Session) -> Result<Self, Error> {
        message::prepare(&mut session).await?;
        Ok(Self {
            session,
            last_queried_at: None,
            is_chain_shared: false,
        })
    }

    /// The session, for other kinds of query. Do not move the chain through it:
    /// [`Self::is_chain_shared`] would not notice.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// True if another session moved the chain between this session's last two answers. After its
    /// first answer it is true, unless that was the very first of all.
    #[must_use]
    pub fn is_chain_shared(&self) -> bool {
        self.is_chain_shared
    }

    /// Appends a query to the chain and answers it, in one message to the server. It returns once
    /// the answer is durable, as far as the session's `synchronous_commit` asks for that.
    ///
    /// # Errors
    /// When a statement fails or the connection breaks. Then it is unknown whether the chain moved
    /// on, and whether that is durable: drop the session.
    pub async fn answer(&mut self) -> Result<Answer, Error> {
        let message = if self.is_chain_shared {
            message::EARLY_LOCK_RELEASE
        } else {
            message::SINGLE_COMMIT
        };
        let answer = message::send(&mut self.session, message).await?;
        // While the clock is behind, queries of two sessions can have the same time. Then this flag
        // is wrong, which costs only speed.
        self.is_chain_shared = answer.previous_at != self.last_queried_at;
        self.last_queried_at = Some(answer.queried_at);
        Ok(answer)
    }
}
