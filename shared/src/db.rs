//! Database sessions: [`Database`] parses a URL, which may name several servers, and opens them.
//!
//! Nothing here retries, except [a migration](schema::migrate). A program that must not end because
//! of an error retries with [`Backoff`].

mod backoff;
mod database_url;
mod error;
pub mod schema;
mod session;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub use backoff::Backoff;
pub use error::Error;
pub use session::{Session, ping};

/// The oldest major version of Postgres that the programs work with.
pub const MIN_POSTGRES_VERSION: u32 = 15;
/// How long opening a session may take ([`Database::connect`]), and separately preparing it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The address of a database, and the credentials for it. `Debug` shows the servers only.
#[derive(Clone)]
pub struct Database {
    /// In the order in which they are tried. A name with several addresses is one server.
    servers: Vec<PgConnectOptions>,
    /// The file that holds the URL. It is read anew for each session.
    file: Option<PathBuf>,
    application_name: String,
    statement_timeout: Option<Duration>,
}

impl Database {
    /// Parses a URL such as `postgres://role:password@host:5432/database?sslmode=verify-full`, or
    /// one with several servers, `postgres://role:password@one:5432,other:5432/database`. Sessions
    /// show up in `pg_stat_activity` under `application_name`.
    ///
    /// # Errors
    /// When the URL is not valid, or a file of certificates that it names can't be read. The error
    /// repeats no value of the URL but the file's name.
    pub fn parse(url: &str, application_name: &str) -> Result<Self, Error> {
        Ok(Self::new(database_url::parse(url)?, application_name))
    }

    /// Reads the URL from a file, now and for each new session, so that a password can be changed.
    ///
    /// # Errors
    /// As for [`Self::parse`], or when the file can't be read. The error names it.
    pub fn parse_file(file: &Path, application_name: &str) -> Result<Self, Error> {
        Ok(Self {
            file: Some(file.to_owned()),
            ..Self::new(database_url::read(file)?, application_name)
        })
    }

    fn new(servers: Vec<PgConnectOptions>, application_name: &str) -> Self {
        Self {
            servers,
            file: None,
            application_name: application_name.to_owned(),
            statement_timeout: None,
        }
    }

    /// The same database, with a limit that the server enforces for every statement.
    #[must_use]
    pub fn with_statement_timeout(self, limit: Duration) -> Self {
        Self {
            statement_timeout: Some(limit),
            ..self
        }
    }

    /// Whether all connections to other machines are encrypted and authenticate the server, which
    /// only `sslmode=verify-full` does.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.servers.iter().all(|server| {
            matches!(server.get_ssl_mode(), PgSslMode::VerifyFull) || is_local(server)
        })
    }

    /// Opens a session with the first server that is writable, and checks that it has accepted the
    /// session's settings, which a pooler drops. Each server gets an equal share of
    /// [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// [`Error::Url`] or [`Error::Timeout`] if the URL's file can't be used any more. Otherwise
    /// [`Error::Connect`] with each server's error: [`Error::Timeout`] after its share,
    /// [`Error::Unavailable`] or [`Error::Unusable`] if it does not fit, or the error of the
    /// network or the server.
    pub async fn connect(&self) -> Result<Session, Error> {
        let servers = match &self.file {
            Some(file) => read_on_blocking_thread(file.clone()).await?,
            None => self.servers.clone(),
        };
        let share = CONNECT_TIMEOUT / u32::try_from(servers.len()).unwrap_or(u32::MAX);
        let mut errors = Vec::new();
        for server in servers {
            let name = server_name(&server);
            let error = match timeout(share, self.connect_to(server)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => error,
                Err(_) => Error::Timeout(share),
            };
            errors.push((name, error));
        }
        Err(Error::Connect(errors))
    }

    /// Opens a session with a server, and initializes it.
    async fn connect_to(&self, server: PgConnectOptions) -> Result<Session, Error> {
        let mut server = server
            .application_name(&self.application_name)
            .options(session::PARAMETERS)
            .disable_statement_logging();
        if let Some(limit) = self.statement_timeout {
            server = server.options([("statement_timeout", limit.as_millis())]);
        }
        let mut session = server.connect().await.map_err(Error::on_connect)?;
        session::initialize(&mut session).await?;
        Ok(session)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.servers.iter().map(server_name).collect();
        // All have the same.
        let database = self
            .servers
            .first()
            .and_then(PgConnectOptions::get_database);
        formatter
            .debug_struct("Database")
            .field("servers", &servers)
            .field("database", &database)
            .finish_non_exhaustive()
    }
}

/// Reads the servers from a file on a thread for blocking work: a network file system may hang.
async fn read_on_blocking_thread(file: PathBuf) -> Result<Vec<PgConnectOptions>, Error> {
    let reading = spawn_blocking(move || database_url::read(&file));
    let read = timeout(CONNECT_TIMEOUT, reading).await;
    let read = read.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))?;
    read.expect("reading a URL does not panic")
}

/// Host and port, or the folder of the Unix socket and the port.
fn server_name(server: &PgConnectOptions) -> String {
    let port = server.get_port();
    match (server.get_socket(), server.get_host()) {
        (Some(folder), _) => format!("{}:{port}", folder.display()),
        (None, address) if address.contains(':') => format!("[{address}]:{port}"),
        (None, host) => format!("{host}:{port}"),
    }
}

/// Whether the server is on this machine.
fn is_local(server: &PgConnectOptions) -> bool {
    let host = server.get_host();
    let is_loopback = |address: IpAddr| address.is_loopback();
    server.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse().is_ok_and(is_loopback)
}

/// Runs a database operation with a timeout. After [`Error::Timeout`] the session is in an
/// unknown state: drop it.
///
/// # Errors
/// [`Error::Timeout`] after `limit`, or the error of `operation`.
pub async fn with_timeout<T, E: Into<Error>>(
    limit: Duration,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match timeout(limit, operation).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Error::Timeout(limit)),
    }
}
