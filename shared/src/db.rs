//! The way to the database: where it is, how a session is set up, what can go wrong.

use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection as _, PgConnection, Row as _, raw_sql};
use tokio::time::timeout;
use tracing::warn;

/// A session with the database.
pub type Connection = PgConnection;

/// How long a polite close to the server may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// What every session asks of the server, so that one whose client is gone, cut off or stopped frees what it holds.
const SESSION: [(&str, &str); 9] = [
    // Says that the settings have arrived: a pooler in between drops them, or refuses.
    ("max_two.session", "own"),
    // Compiling a plan costs more than any of our statements.
    ("jit", "off"),
    // A client that is gone is noticed while a statement runs, …
    ("client_connection_check_interval", "2s"),
    // … one whose network went silent as well, …
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
    // … and one that holds a transaction and says nothing.
    ("idle_in_transaction_session_timeout", "8s"),
    ("lock_timeout", "5s"),
];

/// Where the database is, and who we are there. Its `Debug` does not show the password.
#[derive(Clone)]
pub struct Database(PgConnectOptions);

impl Database {
    /// Reads a URL such as `postgres://role:password@host:5432/database?sslmode=verify-full`.
    ///
    /// # Errors
    /// When it is none. The error does not repeat the URL, which may hold a password.
    pub fn parse(url: &str, application_name: &str) -> Result<Self, BadUrl> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(BadUrl("it does not start with postgres://".to_owned()));
        }
        let options = PgConnectOptions::from_str(url).map_err(|error| {
            // The outer error may quote the value that it could not read; the inner one says what is wrong with it.
            let reason = error.source().map(ToString::to_string);
            BadUrl(reason.unwrap_or_else(|| "it can't be read".to_owned()))
        })?;
        Ok(Self(
            options
                .application_name(application_name)
                .options(SESSION)
                .disable_statement_logging(),
        ))
    }

    /// The same, with a limit that the server puts on every statement.
    #[must_use]
    pub fn statement_timeout(self, limit: Duration) -> Self {
        Self(self.0.options([("statement_timeout", limit.as_millis())]))
    }

    /// What is weak about the way to a server that is not on this machine: only `sslmode=verify-full` makes sure that
    /// nobody else listens or answers. `None` where there is nothing to complain of.
    #[must_use]
    pub fn tls_warning(&self) -> Option<&'static str> {
        let host = self.0.get_host();
        let is_loopback = |address: IpAddr| address.is_loopback();
        let local = self.0.get_socket().is_some()
            || host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback);
        match self.0.get_ssl_mode() {
            PgSslMode::VerifyFull => None,
            _ if local => None,
            PgSslMode::VerifyCa => {
                Some("any server with a certificate of the same authority is taken for it")
            }
            PgSslMode::Require => Some("it is encrypted, but any server is taken for it"),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => {
                Some("passwords and answers may pass in the clear, and any server is taken for it")
            }
        }
    }

    /// Opens a session, on a server that can be written to, with the settings that we rely on.
    ///
    /// # Errors
    /// [`Error::Deadline`] when that takes longer than `within`, [`Error::Standby`] and [`Error::Pooled`] when it is not
    /// what we need, else why the server can't be reached or refuses.
    pub async fn connect(&self, within: Duration) -> Result<Connection, Error> {
        with_deadline(within, async {
            let mut connection = self.0.connect().await.map_err(refusal)?;
            // Not prepared: behind a pooler, a statement of that name may be another client's.
            let server = raw_sql(
                "select pg_is_in_recovery(), current_setting('max_two.session', true) is not distinct from 'own'",
            )
            .fetch_one(&mut connection)
            .await?;
            let (standby, own): (bool, bool) = (server.try_get(0)?, server.try_get(1)?);
            if !own {
                return Err(Error::Pooled);
            }
            if standby {
                return Err(Error::Standby);
            }
            Ok(connection)
        })
        .await
    }

    /// Stops the statement that another session of the same role is running, over a connection of its own.
    ///
    /// # Errors
    /// When the database can't be reached within the given time.
    pub async fn cancel(&self, session: SessionId, within: Duration) -> Result<(), Error> {
        let mut connection = self.connect(within).await?;
        let asked = with_deadline(within, async {
            sqlx::query!("select pg_cancel_backend($1)", session.0)
                .fetch_one(&mut connection)
                .await?;
            Ok(())
        })
        .await;
        close(connection).await;
        asked
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Database")
            .field("host", &self.0.get_host())
            .field("port", &self.0.get_port())
            .field("database", &self.0.get_database())
            .finish_non_exhaustive()
    }
}

/// The server's number of a session, for [`Database::cancel`].
#[derive(Clone, Copy, Debug)]
pub struct SessionId(i32);

/// Asks a session for its number.
///
/// # Errors
/// When the database can't be reached.
pub async fn session_id(connection: &mut Connection) -> Result<SessionId, Error> {
    let row = sqlx::query!(r#"select pg_backend_pid() as "id!""#)
        .fetch_one(connection)
        .await?;
    Ok(SessionId(row.id))
}

/// Runs what talks to the database under a deadline. When it passes, the connection is in an unknown state, and must be
/// dropped.
///
/// # Errors
/// [`Error::Deadline`], or that of `talk`.
pub async fn with_deadline<T>(
    within: Duration,
    talk: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(within, talk)
        .await
        .unwrap_or(Err(Error::Deadline(within)))
}

/// The pauses between attempts at what failed but can pass: they double from a tenth of a second to `longest`, and each
/// is drawn out by up to its own length, so that those who failed together do not come back in step. They never end.
pub fn backoff(longest: Duration) -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Warns, once at a program's start, of a way to the database that others may stand in.
pub fn warn_about_tls(database: &Database) {
    if let Some(tls_warning) = database.tls_warning() {
        warn!(
            "the way to the database is not safe: {tls_warning}; sslmode=verify-full, with the server's authority in \
             sslrootcert, makes it so"
        );
    }
}

/// Finds out whether the server still answers.
///
/// # Errors
/// When it does not.
pub async fn ping(connection: &mut Connection) -> Result<(), Error> {
    Ok(connection.ping().await?)
}

/// Ends a session in the polite way, if that can be had quickly.
pub async fn close(connection: Connection) {
    // A server that does not answer notices the closed socket by itself.
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
}

/// A database's URL that is none.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not a Postgres URL: {0}")]
pub struct BadUrl(String);

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer in time.
    #[error("the database did not answer within {0:?}")]
    Deadline(Duration),
    /// The schema is not the one that this program was built for.
    #[error("the database's schema is not the one of this program: {0}")]
    Schema(String),
    /// The server follows another one, or is not done with its recovery: it may be promoted, or the way to it turned.
    #[error("the database is a standby, which can't be written to")]
    Standby,
    /// Something between us and the server keeps the settings of our session from it.
    #[error(
        "the database is behind a pooler that drops the settings of a session, as PgBouncer does: \
         let DATABASE_URL lead to the server itself, one session is all that this program needs"
    )]
    Pooled,
    /// Anything else, in the words of the server or of the driver. They hold no values of ours: a server puts those in
    /// a message's detail, which `Display` leaves out.
    // Not as its source: it names its own causes, which would be said twice.
    #[error("{0}")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Error {
    /// Whether it can pass by itself, so that trying again makes sense without anybody mending something.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deadline(_) | Self::Standby => true,
            Self::Schema(_) | Self::Pooled => false,
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| is_transient_state(&code))
            }
            Self::Database(error) => matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::Tls(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::WorkerCrashed
            ),
        }
    }
}

/// Why a session was not opened. A pooler says by a protocol error that it does not know our settings.
fn refusal(error: sqlx::Error) -> Error {
    let pooled = error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some("08P01")
            && error.message().contains("unsupported startup parameter")
    });
    if pooled {
        Error::Pooled
    } else {
        Error::Database(error)
    }
}

/// SQLSTATEs of conditions that pass: see the appendix "PostgreSQL Error Codes" of its documentation.
fn is_transient_state(code: &str) -> bool {
    const CLASSES: [&str; 3] = [
        "08", // connection exception
        "40", // transaction rollback: serialization, deadlock
        "53", // insufficient resources: connections, disk, memory
    ];
    const STATES: [&str; 8] = [
        "25006", // read-only: a standby
        "25P03", // idle in transaction
        "55P03", // lock not available
        "57014", // cancelled, or over its time
        "57P01", // the server is shut down by an administrator
        "57P02", // … by a crash
        "57P03", // … or starting up
        "57P05", // idle session
    ];
    CLASSES.iter().any(|class| code.starts_with(class)) || STATES.contains(&code)
}
