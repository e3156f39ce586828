//! The replica's settings.

use std::net::SocketAddr;

use clap::{Parser, Subcommand};
use humantime::Duration;
use shared::cli::DatabaseArgs;
use shared::telemetry::LogFormat;

/// Answers queries: at most two users who qualify, and when the previous query was.
#[derive(Debug, Parser)]
#[command(name = "max-two-api", version)]
pub struct Settings {
    /// What to do instead.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// Where queries are answered; a socket handed over by systemd takes its place.
    #[arg(long, env, default_value = "127.0.0.1:4000")]
    pub(crate) listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served; a second socket handed over takes its place.
    #[arg(long, env, default_value = "127.0.0.1:9000", global = true)]
    pub(crate) admin_listen: SocketAddr,

    /// Share the port with other replicas on this machine (`SO_REUSEPORT`).
    #[arg(long, env)]
    pub(crate) reuse_port: bool,

    /// The most connections at a time; further ones wait until one ends.
    #[arg(long, env, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,

    /// The most requests in line for the next statement; further ones get 503 at once.
    #[arg(long, env, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_waiting: u32,

    /// The longest that a request waits for the database before it gets 503, at least 100ms.
    #[arg(long, env, default_value = "1s", value_parser = at_least_100ms)]
    pub(crate) request_timeout: Duration,

    /// The longest that the head of a request may take, from the connection's or the request's first moment.
    #[arg(long, env, default_value = "5s", value_parser = positive)]
    pub(crate) header_timeout: Duration,

    /// The longest that a connection may be idle between two requests.
    #[arg(long, env, default_value = "75s", value_parser = positive)]
    pub(crate) idle_timeout: Duration,

    /// The longest that a client may leave an answer unread.
    #[arg(long, env, default_value = "5s", value_parser = positive)]
    pub(crate) write_timeout: Duration,

    /// How long to go on as before after a signal to stop, with /readyz at 503, so that load balancers look elsewhere.
    #[arg(long, env, default_value = "5s")]
    pub(crate) drain_delay: Duration,

    /// How long the last connections may take to end after that.
    #[arg(long, env, default_value = "10s")]
    pub(crate) close_timeout: Duration,

    /// How log lines look; text on a terminal, else JSON.
    #[arg(long, env)]
    pub(crate) log_format: Option<LogFormat>,
}

/// What a replica's program can do beside being one.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the replica that runs here, at its ADMIN_LISTEN, whether it is alive and ready: exit with 0 if it is.
    Healthcheck,
}

fn at_least_100ms(text: &str) -> Result<Duration, String> {
    match positive(text)? {
        duration if duration.as_millis() >= 100 => Ok(duration),
        _ => Err("it must be at least 100ms".to_owned()),
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match text.parse::<Duration>() {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("it must be longer than nothing".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
