//! Database errors, and which of them can pass without action.

use std::io;
use std::time::Duration;

use super::MIN_POSTGRES_VERSION;

/// Why a database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not valid, or a file that holds it or that it names can't be used.
    #[error("{0}")]
    Url(String),
    /// No server of the URL could be used. An entry for each, in the URL's order: its name (host or
    /// folder of the socket, with the port) and its error.
    #[error("{}", join(.0))]
    Connect(Vec<(String, Error)>),
    /// The operation took longer than this.
    #[error("the database did not answer within {0:?}")]
    Timeout(Duration),
    /// The database can't be used now, for this reason, but may be again without any action.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The database can't be used, for this reason, until an operator acts.
    #[error("{0}")]
    Unusable(String),
    /// Any other error of the server or the driver. Our statements bind typed parameters, whose
    /// values Postgres puts only into the detail, which `Display` leaves out.
    // Not a `source`: sqlx's message already includes its causes.
    #[error("{}", message(.0))]
    Sqlx(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl Error {
    /// True if the condition can pass by itself, so that a retry can succeed. Otherwise an operator
    /// must act. With several servers it is false if the error of any needs an operator.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(errors) => errors.iter().all(|(_, error)| error.is_transient()),
            Self::Timeout(_) | Self::Unavailable(_) => true,
            Self::Url(_) | Self::Unusable(_) => false,
            Self::Sqlx(error) => match error {
                sqlx::Error::Database(error) => {
                    error.code().is_some_and(|code| is_transient_state(&code))
                }
                // rustls reports a certificate that it rejects in this way.
                sqlx::Error::Io(error) => error.kind() != io::ErrorKind::InvalidData,
                // A server uses its own encoding only when it refuses to open a session, and then
                // sqlx loses the SQLSTATE. Most refusals last, so all of these count as lasting.
                // The server's log has the reason.
                sqlx::Error::Protocol(reason) => !reason.contains("non-UTF-8"),
                // Such as `Tls`: a server without TLS, or a bad file.
                _ => false,
            },
        }
    }

    /// True if the error lasts until an operator acts, and each retry may cost a line in the
    /// server's log or a whole round. Reading a bad URL again costs nothing.
    #[must_use]
    pub fn is_costly_to_retry(&self) -> bool {
        !self.is_transient() && !matches!(self, Self::Url(_))
    }

    /// True if a statement ended because it did not get a lock within `lock_timeout`.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        const LOCK_NOT_AVAILABLE: &str = "55P03";
        matches!(self, Self::Sqlx(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
    }

    /// A table that must have one row has none: somebody deleted it.
    pub(crate) fn row_missing(table: &str) -> Self {
        Self::Unusable(format!("the only row of {table} is missing"))
    }

    /// A pooler between this program and the server drops or rejects the session's settings.
    pub(super) fn pooled() -> Self {
        Self::Unusable(
            "the database is behind a pooler that drops session settings, such as PgBouncer or RDS \
             Proxy: point DATABASE_URL at the server itself, this program needs one session only"
                .to_owned(),
        )
    }

    /// The server is older than what the programs need.
    pub(super) fn too_old() -> Self {
        Self::Unusable(format!(
            "the database's Postgres is too old: Max Two needs {MIN_POSTGRES_VERSION} or newer"
        ))
    }

    /// Classifies an error of connecting.
    pub(super) fn on_connect(error: sqlx::Error) -> Self {
        let rejects = |code: &str, part: &str| {
            error.as_database_error().is_some_and(|error| {
                error.code().as_deref() == Some(code) && error.message().contains(part)
            })
        };
        // PgBouncer, RDS Proxy
        if rejects("08P01", "unsupported startup parameter")
            || rejects("0A000", "command-line options")
        {
            return Self::pooled();
        }
        // sqlx's message quotes the character.
        if error.to_string().contains("saslprep") {
            let reason = "role or password of the URL hold a character that SASLprep prohibits";
            return Self::Unusable(reason.to_owned());
        }
        // A parameter that Postgres 13 does not know.
        if rejects("42704", "\"idle_session_timeout\"") {
            return Self::too_old();
        }
        Self::Sqlx(error)
    }
}

fn join(errors: &[(String, Error)]) -> String {
    let reason = |(server, error): &_| format!("{server}: {error}");
    errors.iter().map(reason).collect::<Vec<_>>().join("; ")
}

/// The driver's message, without the line of Postgres' source that it appends to a server's.
fn message(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            format!("error returned from database: {}", error.message())
        }
        error => error.to_string(),
    }
}

/// True for SQLSTATEs of conditions that pass. Source: the appendix "PostgreSQL Error Codes" of the
/// Postgres documentation.
fn is_transient_state(code: &str) -> bool {
    const CLASSES: [&str; 3] = [
        "08", // connection exception
        "40", // transaction rollback: serialization failure, deadlock
        "53", // insufficient resources: connections, disk, memory
    ];
    const STATES: [&str; 8] = [
        "25006", // read-only transaction: a standby
        "25P03", // idle-in-transaction timeout
        "55P03", // lock not available
        "57014", // cancelled, or statement timeout
        "57P01", // admin shutdown
        "57P02", // crash shutdown
        "57P03", // cannot connect now: starting up
        "57P05", // idle session timeout
    ];
    CLASSES.iter().any(|class| code.starts_with(class)) || STATES.contains(&code)
}
