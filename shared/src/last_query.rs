//! The chain of all queries, and the one message that answers a query.
//!
//! An answer is durable before [`ChainSession::answer`] returns it. If the session ends before
//! that, the query may stay in the chain or not: no client has seen its answer.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Execute as _, FromRow, query_file, query_file_as, raw_sql};

use crate::db::{Error, Session};
use crate::users::User;

/// Answers a query in one simple query message: the server runs both statements in one transaction,
/// which ends with the message. No lock is held across a round trip, and an error leaves no
/// transaction open.
///
/// The users are read by a statement of their own. Under READ COMMITTED, which every session must
/// have, it sees what is committed when it begins, and by then the first statement holds the row's
/// lock: the users are those of this place in the chain. Joined to the `update`, they would be
/// those from before its wait for the lock, older than what queries before it have shown.
pub const MESSAGE: &str = "execute move_chain; execute read_users";

/// The same with early lock release (Johnson et al., "Aether", VLDB 2010, section 4), for when
/// other sessions move the chain too. [`MESSAGE`] holds the row's lock while its commit waits for
/// the disk and the synchronous standby, so all sessions wait for each other's disk writes.
///
/// Here the first commit does not wait, which frees the row. The second, of `settle`, waits
/// together with the commits of all other sessions. The write-ahead log is one sequence, so the
/// second commit makes the first durable, and with it every move that this one follows. A crash in
/// between loses moves of which no answer has told.
///
/// After an error the transaction stays open, without locks: drop the session.
pub const MESSAGE_RELEASING_EARLY: &str = "begin; set local synchronous_commit = off; \
    execute move_chain; execute read_users; commit; execute settle";

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
struct TwoUsers {
    first_id: Option<i64>,
    first_points: Option<i32>,
    second_id: Option<i64>,
    second_points: Option<i32>,
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
    /// Those of [`prepare`]. The session is dropped.
    pub async fn new(mut session: Session) -> Result<Self, Error> {
        prepare(&mut session).await?;
        Ok(Self {
            session,
            last_queried_at: None,
            is_chain_shared: false,
        })
    }

    /// The session, for statements that do not touch the chain.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Whether the query right before this session's last one was another session's. So it is true
    /// after a session's first answer, unless that answered the very first query.
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
            MESSAGE_RELEASING_EARLY
        } else {
            MESSAGE
        };
        let answer = send(&mut self.session, message).await?;
        // Where two sessions had one time, as while the clock is behind, this is wrong. That only
        // costs speed.
        self.is_chain_shared = answer.previous_at != self.last_queried_at;
        self.last_queried_at = Some(answer.queried_at);
        Ok(answer)
    }
}

/// Prepares the statements of both messages in a session, and verifies that they work: runs them
/// and rolls back, so that the chain does not move on. That is one message, so the row's lock never
/// waits for this program.
///
/// # Errors
/// [`Error::RowMissing`] when there is no row to answer from; otherwise when the schema or our
/// privileges do not suffice, the database is read-only, or the connection breaks. Drop the
/// session.
pub async fn prepare(session: &mut Session) -> Result<(), Error> {
    // sqlx checks no message of several statements. So their texts are checked here at compile
    // time, against the schema and the structs that `send` decodes their rows into.
    let move_chain = query_file_as!(Move, "src/last_query/move.sql").sql();
    let read_users = query_file_as!(TwoUsers, "src/last_query/read.sql").sql();
    let settle = query_file!("src/last_query/settle.sql").sql();
    raw_sql(AssertSqlSafe(format!(
        "prepare move_chain as {}; prepare read_users as {}; prepare settle as {}",
        move_chain.as_str(),
        read_users.as_str(),
        settle.as_str(),
    )))
    .execute(&mut *session)
    .await?;
    let rehearsal = format!("begin; {MESSAGE}; execute settle; rollback");
    let rows = raw_sql(AssertSqlSafe(rehearsal)).fetch_all(session).await?;
    decode(&rows)?;
    Ok(())
}

/// Sends one of the messages to a session that [`prepare`] has prepared. This function, that one
/// and both messages are public for tests and the benchmark only.
///
/// # Errors
/// Those of [`ChainSession::answer`].
pub async fn send(session: &mut Session, message: &'static str) -> Result<Answer, Error> {
    decode(&raw_sql(message).fetch_all(session).await?)
}

/// Decodes a row of each statement.
fn decode(rows: &[PgRow]) -> Result<Answer, Error> {
    let [moved, two_users] = rows else {
        return Err(Error::RowMissing("settings or last_query"));
    };
    let moved = Move::from_row(moved)?;
    let two_users = TwoUsers::from_row(two_users)?;
    let user = |id: Option<i64>, points: Option<i32>| {
        Some(User {
            id: id?,
            points: points?,
        })
    };
    let users = [
        user(two_users.first_id, two_users.first_points),
        user(two_users.second_id, two_users.second_points),
    ];
    Ok(Answer {
        users: users.into_iter().flatten().collect(),
        previous_at: moved.previous_at,
        queried_at: moved.queried_at,
    })
}
