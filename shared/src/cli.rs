//! Settings of a program, read once: a flag and an environment variable are the same setting.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser};

use crate::db::{BadUrl, Database};

/// The exit status of a program that was given a bad setting.
const BAD_SETTING: u8 = 2;

/// Reads the settings of a program.
///
/// # Errors
/// With the status to exit with: success after `--help` and `--version`, and 2 after a bad setting, which has then been
/// named in one line on standard error.
pub fn parse<Settings: Parser>() -> Result<Settings, ExitCode> {
    Settings::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell when standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.to_string();
            let words: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
                .filter(|line| !line.is_empty())
                .collect();
            eprintln!("{}", words.join(" "));
            ExitCode::from(BAD_SETTING)
        }
    })
}

/// Names a bad setting in one line on standard error, and returns the status to exit with.
pub fn bad_setting(error: &dyn Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(BAD_SETTING)
}

/// Where the database is: its URL, or a file that holds it. Its `Debug` shows neither.
#[derive(Args)]
pub struct DatabaseArgs {
    /// Where Postgres is: postgres://role:password@host:5432/database
    #[arg(long, env, hide_env_values = true, global = true)]
    database_url: Option<String>,

    /// A file that holds that URL instead, such as a secret that an orchestrator mounts.
    #[arg(long, env, global = true, conflicts_with = "database_url")]
    database_url_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The database there, for a program of this name.
    ///
    /// # Errors
    /// When no URL can be had; the setting is named, and no part of the URL.
    pub fn database(&self, application_name: &str) -> Result<Database, DatabaseArgsError> {
        let (setting, url) = match (&self.database_url, &self.database_url_file) {
            (Some(url), _) => ("DATABASE_URL".to_owned(), url.clone()),
            (None, Some(path)) => {
                let setting = format!("DATABASE_URL_FILE {}", path.display());
                match fs::read_to_string(path) {
                    Ok(text) => (setting, text),
                    Err(error) => return Err(DatabaseArgsError::File { setting, error }),
                }
            }
            (None, None) => return Err(DatabaseArgsError::Unset),
        };
        // A file ends with a line break.
        Database::parse(url.trim_end(), application_name)
            .map_err(|error| DatabaseArgsError::Url { setting, error })
    }
}

impl fmt::Debug for DatabaseArgs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DatabaseArgs")
            .finish_non_exhaustive()
    }
}

/// Why the settings lead to no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseArgsError {
    /// Neither is set.
    #[error("neither DATABASE_URL nor DATABASE_URL_FILE is set")]
    Unset,
    /// The file can't be read.
    #[error("{setting}: {error}")]
    File {
        /// The setting's name, and what it is set to.
        setting: String,
        /// Why.
        error: io::Error,
    },
    /// What is there is no URL.
    #[error("{setting}: {error}")]
    Url {
        /// The setting's name.
        setting: String,
        /// Why.
        error: BadUrl,
    },
}
