//! The replica's settings.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand};
use shared::program::cli::{DatabaseArgs, MAX_DURATION, address, duration};
use shared::program::logs::LogFormat;

/// A shorter one would leave too little time for the database.
const MIN_REQUEST_TIMEOUT: Duration = Duration::from_millis(100);
/// Timeouts of zero would end every connection.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// Answers queries: at most two users who qualify, and the time of the previous query.
#[derive(Parser)]
#[command(name = "max-two-api", version)]
pub struct Settings {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// Address for queries; sockets from systemd named `http` replace it.
    #[arg(long, env, default_value = "127.0.0.1:4000", value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// Address for /livez, /readyz and /metrics; sockets from systemd named `admin` replace it.
    #[arg(long, env, default_value = "127.0.0.1:9000", global = true, value_parser = address)]
    pub(crate) admin_listen: SocketAddr,

    /// Share the port with other replicas on this machine (`SO_REUSEPORT`).
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub(crate) reuse_port: bool,

    /// Maximum number of open connections; further ones wait, and idle ones are closed for them.
    #[arg(long, env, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,

    /// Maximum number of queries that wait for the next batch; further ones get 503 at once.
    #[arg(long, env, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_waiting: u32,

    /// How long a request may wait for the database (100ms or more). It gets 503 once it has waited
    /// 4/5 of this time, so that the response is sent in time.
    #[arg(long, env, default_value = "1s", value_parser = duration(MIN_REQUEST_TIMEOUT..=MAX_DURATION))]
    pub(crate) request_timeout: Duration,

    /// How long a request may take to arrive, from the accept or from its first byte.
    #[arg(long, env, default_value = "5s", value_parser = duration(MIN_TIMEOUT..=MAX_DURATION))]
    pub(crate) header_timeout: Duration,

    /// How long a connection may be idle between two requests.
    #[arg(long, env, default_value = "75s", value_parser = duration(MIN_TIMEOUT..=MAX_DURATION))]
    pub(crate) idle_timeout: Duration,

    /// How long sent data may stay unacknowledged before the kernel closes the connection (Linux
    /// only).
    #[arg(long, env, default_value = "5s", value_parser = duration(MIN_TIMEOUT..=MAX_DURATION))]
    pub(crate) write_timeout: Duration,

    /// How long to serve as before after a stop signal, with /readyz at 503, so that load balancers
    /// stop sending requests.
    #[arg(long, env, default_value = "5s", value_parser = duration(Duration::ZERO..=MAX_DURATION))]
    pub(crate) drain_delay: Duration,

    /// How long open connections may take to end after that delay.
    #[arg(long, env, default_value = "10s", value_parser = duration(Duration::ZERO..=MAX_DURATION))]
    pub(crate) close_timeout: Duration,

    /// Format of log lines; by default text on a terminal, else JSON.
    #[arg(long, env)]
    pub(crate) log_format: Option<LogFormat>,
}

/// What the program can do instead of serving.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Check that the replica at ADMIN_LISTEN is alive and ready: exit with 0 if it is.
    Healthcheck,
}
