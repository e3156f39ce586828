//! Database connections: the URL, the settings of a session, connecting and closing.
//!
//! [`Database`] parses a URL and opens sessions. Nothing here retries: callers do, with
//! [`backoff`].

mod address;
mod error;
mod url;

use std::fmt;
use std::iter;
use std::net::IpAddr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, Row as _, raw_sql};
use tokio::time::timeout;
use tracing::warn;

pub use error::Error;
pub use url::BadUrl;

/// A session with the database.
pub type Session = PgConnection;

/// How long a connection attempt may take in a program that keeps retrying.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the one connection attempt of a command may take.
pub const COMMAND_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first delay before a retry, without its jitter.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// How long a graceful close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// Settings that every session asks for, whatever the defaults of the server, the database and the
/// role are. `deploy/postgres/roles.sql` has the same, but for the marker and the timeout of idle
/// transactions.
///
/// These settings stay as the operator has them: `search_path` (the tables may be in any schema),
/// `synchronous_commit` (off is a choice), `default_transaction_read_only` ([`Database::connect`]
/// rejects such a server), `default_transaction_deferrable` (without effect at our isolation
/// level), and all that change only how fast a plan is or how a value is printed.
const SESSION_SETTINGS: [(&str, &str); 14] = [
    // A marker that `connect` reads back: a pooler drops or rejects the settings of a session.
    ("max_two.session", "own"),
    // A query that waited for the row of `last_query` continues from its newest version, and a
    // round reads the fence with a snapshot that is younger than its lock. At a higher level both
    // fail or see old rows.
    ("default_transaction_isolation", "read committed"),
    // Otherwise a policy hides rows silently, and a round skips users. With this it fails.
    ("row_security", "off"),
    // Not the role's: see `Database::statement_timeout`.
    ("statement_timeout", "0"),
    // The session of a worker is idle between two checks.
    ("idle_session_timeout", "0"),
    // Below this level an extension may send us the plan or the parameters of a statement, and so
    // the minimum. sqlx logs what the server sends.
    ("client_min_messages", "warning"),
    // Compiling a plan costs more than it saves.
    ("jit", "off"),
    // Most of the rest make the server end a session, and free its locks, when the client is gone,
    // unreachable or stopped. This one notices a closed connection while a statement runs.
    ("client_connection_check_interval", "2s"),
    // Notice a network that drops packets silently.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
    // Ends the session of a client that stopped inside a transaction.
    ("idle_in_transaction_session_timeout", "8s"),
    ("lock_timeout", "5s"),
];

/// What [`Database::connect`] asks a new session.
const INSPECT_SESSION: &str = include_str!("db/inspect_session.sql");

/// The address of a database, and the credentials for it. `Debug` hides the password.
#[derive(Clone)]
pub struct Database(PgConnectOptions);

impl Database {
    /// Parses a URL such as `postgres://role:password@host:5432/database?sslmode=verify-full`.
    /// Sessions show up in `pg_stat_activity` under `application_name`.
    ///
    /// # Errors
    /// When the URL is not valid, or a file of certificates that it names can't be read. The error
    /// repeats no value of the URL but the file's name.
    pub fn parse(url: &str, application_name: &str) -> Result<Self, BadUrl> {
        let options = url::parse(url)?;
        Ok(Self(
            options
                .application_name(application_name)
                .options(SESSION_SETTINGS)
                .disable_statement_logging(),
        ))
    }

    /// The same database, with a limit that the server enforces for every statement.
    #[must_use]
    pub fn statement_timeout(self, limit: Duration) -> Self {
        Self(self.0.options([("statement_timeout", limit.as_millis())]))
    }

    /// What is not secure about a connection to a server on another machine: only
    /// `sslmode=verify-full` encrypts and authenticates the server. `None` if there is no risk.
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
                Some("any server with a certificate of the same authority is accepted")
            }
            PgSslMode::Require => Some("it is encrypted, but any server is accepted"),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => {
                Some("passwords and answers may be sent in the clear, and any server is accepted")
            }
        }
    }

    /// Opens a session with a writable server, and verifies that it has the session settings.
    ///
    /// # Errors
    /// [`Error::Connect`] with [`Error::Deadline`] after `limit`; with [`Error::Standby`],
    /// [`Error::ReadOnly`] or [`Error::Pooled`] if the server does not fit; otherwise with the
    /// error of the network or the server.
    pub async fn connect(&self, limit: Duration) -> Result<Session, Error> {
        let connect = async {
            let mut connection = Box::pin(address::connect(&self.0, limit))
                .await
                .map_err(Error::on_connect)?;
            // Not prepared: a pooler may already hold another client's statement of that name.
            let server = raw_sql(INSPECT_SESSION).fetch_one(&mut connection).await?;
            let [is_own, is_standby, is_read_only]: [bool; 3] =
                [server.try_get(0)?, server.try_get(1)?, server.try_get(2)?];
            if !is_own {
                Err(Error::Pooled)
            } else if is_standby {
                Err(Error::Standby)
            } else if is_read_only {
                Err(Error::ReadOnly)
            } else {
                Ok(connection)
            }
        };
        with_deadline(limit, connect)
            .await
            .map_err(|error| Error::Connect {
                server: self.server(),
                error: Box::new(error),
            })
    }

    /// Host and port, or the folder of the Unix socket and the port.
    fn server(&self) -> String {
        let port = self.0.get_port();
        match (self.0.get_socket(), self.0.get_host()) {
            (Some(folder), _) => format!("{}:{port}", folder.display()),
            (None, address) if address.contains(':') => format!("[{address}]:{port}"),
            (None, host) => format!("{host}:{port}"),
        }
    }

    /// Cancels the running statement of another session of the same role, over a new connection.
    ///
    /// # Errors
    /// When connecting or the request fails, or when either takes longer than `limit`.
    pub async fn cancel(&self, session: SessionId, limit: Duration) -> Result<(), Error> {
        let mut connection = self.connect(limit).await?;
        let result = with_deadline(limit, async {
            sqlx::query!("select pg_cancel_backend($1)", session.0)
                .fetch_one(&mut connection)
                .await?;
            Ok(())
        })
        .await;
        close(connection).await;
        result
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

/// The server's process id of a session, for [`Database::cancel`].
#[derive(Clone, Copy, Debug)]
pub struct SessionId(i32);

/// Reads the id of this session.
///
/// # Errors
/// When the statement fails.
pub async fn session_id(session: &mut Session) -> Result<SessionId, Error> {
    let row = sqlx::query!(r#"select pg_backend_pid() as "id!""#)
        .fetch_one(session)
        .await?;
    Ok(SessionId(row.id))
}

/// Runs a database operation with a deadline. After [`Error::Deadline`] the connection is in an
/// unknown state: drop it.
///
/// # Errors
/// [`Error::Deadline`] after `limit`, or the error of `operation`.
pub async fn with_deadline<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, operation)
        .await
        .unwrap_or(Err(Error::Deadline(limit)))
}

/// Delays between retries, without end: they double from 100 ms to `max_delay`. Jitter
/// adds up to the same again, so that clients that failed together do not retry together.
pub fn backoff(max_delay: Duration) -> impl Iterator<Item = Duration> + Send {
    iter::successors(Some(INITIAL_BACKOFF), move |delay| {
        Some(max_delay.min(*delay * 2))
    })
    .map(|delay| delay.mul_f64(1.0 + rand::random::<f64>()))
}

/// Logs [`Database::tls_warning`], if there is one. For the start of a program.
pub fn warn_about_tls(database: &Database) {
    if let Some(risk) = database.tls_warning() {
        warn!(
            "the database connection is not secure: {risk}; \
             set sslmode=verify-full, and sslrootcert to the server's certificate authority"
        );
    }
}

/// Checks that the server still responds.
///
/// # Errors
/// When it does not.
pub async fn ping(session: &mut Session) -> Result<(), Error> {
    Ok(session.ping().await?)
}

/// Closes a session gracefully, within a short timeout.
pub async fn close(session: Session) {
    // If this fails, the server notices the closed socket.
    let _ = timeout(CLOSE_TIMEOUT, session.close()).await;
}
