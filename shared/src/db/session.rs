//! A session: its parameters, and the check that it has them.

use sqlx::{Connection as _, PgConnection, Row as _, raw_sql};

use super::{Error, MIN_POSTGRES_VERSION};

/// A session with the database. Dropping it closes the connection, and the server rolls an open
/// transaction back.
pub type Session = PgConnection;

/// Parameters that every session asks for, whatever the defaults of the server, the database and
/// the role are. [`initialize`] adds `transaction_timeout`.
///
/// These parameters stay as the operator has them:
/// - `search_path`: the tables may be in any schema;
/// - `synchronous_commit`: off is a choice;
/// - `default_transaction_read_only`: [`initialize`] rejects such a server;
/// - `default_transaction_deferrable`: it has no effect at our isolation level;
/// - all that only change the speed of a plan, except `jit`.
///
/// sqlx itself sets `DateStyle`, `TimeZone` and `client_encoding`, on which the times of an answer
/// rely.
pub(super) const PARAMETERS: [(&str, &str); 14] = [
    // A marker that `initialize` reads back: a pooler drops or rejects the settings of a session.
    ("max_two.session", "own"),
    // A query that waited for the row of `last_query` continues from its newest version, and a
    // round reads the fence with a snapshot that is younger than its lock. At a higher level both
    // fail or see old rows.
    ("default_transaction_isolation", "read committed"),
    // Otherwise a policy hides rows silently, and a round skips users. With this it fails.
    ("row_security", "off"),
    // Overrides that of the role. `Database::with_statement_timeout` sets ours.
    ("statement_timeout", "0"),
    // The session of a worker is idle between two checks.
    ("idle_session_timeout", "0"),
    // Below this level an extension may send us the plan or the parameters of a statement, and so
    // the minimum. sqlx logs what the server sends.
    ("client_min_messages", "warning"),
    // Compiling a plan costs more than it saves.
    ("jit", "off"),
    // The following ones make the server end a session, and free its locks, when the client is
    // gone, unreachable or stopped. The first notices a closed connection while a statement runs.
    ("client_connection_check_interval", "2s"),
    // Notice a network that drops packets silently.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
    // Ends the session of a client that stopped inside a transaction.
    ("idle_in_transaction_session_timeout", "8s"),
    // A statement that waits for a lock has a snapshot, which keeps rounds from pruning.
    ("lock_timeout", "5s"),
];

/// Checks that the server has accepted the [`PARAMETERS`] of a new session, and that it is new
/// enough and writable. Also sets `transaction_timeout` to 0.
///
/// # Errors
/// [`Error::Unavailable`] or [`Error::Unusable`] if the server does not fit; otherwise when the
/// statement fails.
pub(super) async fn initialize(session: &mut Session) -> Result<(), Error> {
    // Not prepared: a pooler may already hold another client's statement of that name.
    let server = raw_sql(include_str!("initialize_session.sql"))
        .fetch_one(session)
        .await?;
    let flag = |column: &str| server.try_get::<bool, _>(column);
    if !flag("is_own")? {
        Err(Error::pooled())
    } else if server.try_get::<i32, _>("version")?.cast_unsigned() < MIN_POSTGRES_VERSION {
        Err(Error::too_old())
    } else if flag("is_standby")? {
        // It may be promoted, or connections may soon lead to the primary.
        let reason = "the database is a standby, which can't be written to";
        Err(Error::Unavailable(reason))
    } else if flag("is_read_only")? {
        // As some managed services make a primary when its disk is full.
        let reason = "the database is read-only: its default_transaction_read_only is on";
        Err(Error::Unavailable(reason))
    } else {
        Ok(())
    }
}

/// Checks that the server still responds.
///
/// # Errors
/// When it does not.
pub async fn ping(session: &mut Session) -> Result<(), Error> {
    Ok(session.ping().await?)
}
