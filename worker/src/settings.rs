//! The worker's settings: flags, environment variables and subcommands.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use shared::domain::MinPoints;
use shared::program::cli::{DatabaseArgs, MAX_DURATION, address, duration};
use shared::program::logs::LogFormat;

use crate::schedule::Schedule;

/// Renews all points and the minimum, once per tick.
#[derive(Parser)]
#[command(name = "max-two-worker", version)]
pub struct Settings {
    /// The command; `run` by default.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) database: DatabaseArgs,

    /// Address of the admin listener: /livez, /readyz, /metrics.
    #[arg(long, env, default_value = "127.0.0.1:9001", global = true, value_parser = address)]
    pub(crate) admin_listen: SocketAddr,

    /// When ticks are due: a cron pattern with seconds, in UTC. If both the day of the month and
    /// the day of the week are set, both must match (in cron: either).
    #[arg(long, env, default_value = "0 * * * * *", global = true)]
    pub(crate) schedule: Schedule,

    /// How long to wait after a round that was still running at its next tick.
    #[arg(long, env, default_value = "10s", global = true, value_parser = duration(Duration::ZERO..=MAX_DURATION))]
    pub(crate) cooldown: Duration,

    /// How long the writes of a round may take before the round is rolled back.
    #[arg(long, env, default_value = "2m", global = true, value_parser = duration(Duration::from_secs(1)..=MAX_DURATION))]
    pub(crate) round_timeout: Duration,

    /// Format of log lines; by default text on a terminal, else JSON.
    #[arg(long, env, global = true)]
    pub(crate) log_format: Option<LogFormat>,
}

/// The commands of the program.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Database(DatabaseCommand),
    /// Check that the worker at ADMIN_LISTEN is alive and ready: exit with 0 if it is.
    Healthcheck,
}

/// The commands that need a database.
#[derive(Subcommand)]
pub(crate) enum DatabaseCommand {
    /// Do a round for each tick until SIGINT or SIGTERM. Several missed ticks are one round.
    Run,
    /// Bring the schema up to date.
    Migrate,
    /// Add the users 1 to N that are missing, with 0 points.
    Seed {
        /// N, up to ten billion.
        #[arg(
            long,
            value_name = "N",
            allow_negative_numbers = true,
            value_parser = clap::value_parser!(i64).range(0..=10_000_000_000)
        )]
        users: i64,
    },
    /// Do one round now, whatever the schedule and the cooldown are. Waits for a running round.
    Round {
        /// The minimum, 0 to 100, instead of a random one.
        #[arg(long, allow_negative_numbers = true)]
        min_points: Option<MinPoints>,
    },
}
