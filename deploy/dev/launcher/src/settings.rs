//! The launcher's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand, value_parser};
use private_postgres::Binaries;
use shared::db::Database;
use shared::telemetry::LogFormat;
use worker::Schedule;

/// Starts the whole of Max Two on this machine: a private Postgres, a million users, worker and replicas.
#[derive(Debug, Parser)]
#[command(name = "max-two", version)]
pub(crate) struct Settings {
    /// Where queries are answered, by all replicas.
    #[arg(long, env, default_value = "127.0.0.1:4000")]
    pub(crate) listen: SocketAddr,

    /// How many replicas of the api.
    #[arg(long, env, default_value_t = 2, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) replicas: u16,

    /// How many workers; one is enough, more are safe.
    #[arg(long, env, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,

    /// How many users there are to be; those that exist stay.
    #[arg(long, env, default_value_t = 1_000_000, allow_negative_numbers = true, value_parser = value_parser!(i64).range(0..=10_000_000_000))]
    pub(crate) users: i64,

    /// Where the private Postgres keeps its data: .max-two in the current folder, or, where root starts this and
    /// Postgres' account can't enter that, a folder in /var/lib/max-two.
    #[arg(long, env)]
    pub(crate) data_dir: Option<PathBuf>,

    /// The folder of the Postgres binaries, instead of the ones that are found.
    #[arg(long, env)]
    pub(crate) postgres_bin: Option<PathBuf>,

    /// When rounds are due: a cron pattern with seconds, in UTC.
    #[arg(long, env, default_value = "0 * * * * *")]
    pub(crate) schedule: Schedule,

    /// A database to use instead of a private one: its owner's URL.
    #[arg(long, env, hide_env_values = true)]
    pub(crate) database_url: Option<String>,

    /// How log lines look; text on a terminal, else JSON.
    #[arg(long, env)]
    pub(crate) log_format: Option<LogFormat>,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

impl Settings {
    /// What can be told of the settings before anything is started.
    ///
    /// # Errors
    /// When the database's URL is none, or the folder of binaries has none.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(url) = &self.database_url {
            Database::parse(url, "max-two").context("DATABASE_URL")?;
        }
        if let Some(folder) = &self.postgres_bin {
            Binaries::find(Some(folder))?;
        }
        Ok(())
    }
}

/// What this program is when it has started itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
}
