//! The launcher's settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, value_parser};
use private_postgres::Binaries;
use shared::db::Database;
use shared::program::cli::address;
use shared::program::logs::LogFormat;
use worker::Schedule;

/// Runs all of Max Two on this machine: a private Postgres, a million users, worker and replicas.
// Without `Debug`, because `database_url` may hold a password.
#[derive(Parser)]
#[command(name = "max-two", version)]
pub(crate) struct Settings {
    /// The address that all replicas share.
    #[arg(long, env, default_value = "127.0.0.1:4000", value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// Number of replicas of the api.
    #[arg(long, env, default_value_t = 2, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) replicas: u16,

    /// Number of workers; one is enough, more are safe.
    #[arg(long, env, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,

    /// Number of users to have; existing users stay.
    #[arg(long, env, default_value_t = 1_000_000, allow_negative_numbers = true, value_parser = value_parser!(i64).range(0..=10_000_000_000))]
    pub(crate) users: i64,

    /// The folder of the private Postgres: by default .max-two in the current folder, or a folder
    /// in /var/lib/max-two when root starts this and Postgres' account can't enter the current
    /// folder.
    #[arg(long, env)]
    pub(crate) data_dir: Option<PathBuf>,

    /// The folder of initdb and postgres; by default they are searched for.
    #[arg(long, env)]
    pub(crate) postgres_bin: Option<PathBuf>,

    /// When ticks are due: a cron pattern with seconds, in UTC.
    #[arg(long, env, default_value = "0 * * * * *")]
    pub(crate) schedule: Schedule,

    /// The owner's URL of a database to use instead of a private Postgres.
    #[arg(long, env, hide_env_values = true)]
    pub(crate) database_url: Option<String>,

    /// Format of log lines; by default text on a terminal, else JSON.
    #[arg(long, env)]
    pub(crate) log_format: Option<LogFormat>,

    #[command(subcommand)]
    pub(crate) subcommand: Option<Subcommand>,
}

impl Settings {
    /// Checks what can be checked before anything is started.
    ///
    /// # Errors
    /// When the database's URL is invalid, or the folder of binaries lacks them.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(url) = &self.database_url {
            Database::parse(url, "max-two").context("DATABASE_URL")?;
        }
        if let Some(folder) = &self.postgres_bin {
            Binaries::named(folder)?;
        }
        Ok(())
    }
}

/// The program that this process runs instead, when a launcher has started it.
#[derive(clap::Subcommand)]
pub(crate) enum Subcommand {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_setting_is_documented_with_its_default() {
        testkit::settings::assert_documented::<super::Settings>();
    }
}
