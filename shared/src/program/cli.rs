//! Settings of a program, read once at its start. Each is a flag and an environment variable.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Args, Command, Parser};
use humantime::format_duration;

use crate::db::Database;

/// The exit status after a bad setting.
pub const BAD_SETTING: u8 = 2;

/// The upper bound of the durations that have no other: a longer one is a typing error.
pub const MAX_DURATION: Duration = Duration::from_hours(24);

/// The value parser of a duration with units, such as `1m 30s`, within these bounds.
pub fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match humantime::parse_duration(text) {
        Ok(duration) if bounds.contains(&duration) => Ok(duration),
        Ok(_) => Err(format!(
            "it must be from {} to {}",
            format_duration(*bounds.start()),
            format_duration(*bounds.end())
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// The value parser of an address to listen on. Its error has an example.
///
/// # Errors
/// When it is not an IP address with a port.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "it must be an IP address and a port, such as 127.0.0.1:4000, or [::]:4000 for all \
         addresses"
            .to_owned()
    })
}

/// Parses the settings of a program from its arguments and environment. An empty variable counts as
/// one that is not set.
///
/// # Errors
/// The status to exit with: success after `--help` and `--version`; 2 after a bad setting, which
/// has then been named in one line on standard error.
pub fn parse<Settings: Parser>() -> Result<Settings, ExitCode> {
    let matches = without_empty_variables(Settings::command()).try_get_matches();
    let settings = matches.and_then(|matches| Settings::from_arg_matches(&matches));
    settings.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // If standard output is closed, there is no other place for the text.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.to_string();
            // clap's message without its usage and hints, as one line.
            let lines: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
                .filter(|line| !line.is_empty())
                .collect();
            print_error(&lines.join(" "));
            ExitCode::from(BAD_SETTING)
        }
    })
}

/// Ignores empty variables: orchestrators pass a variable that was left blank as an empty one.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(Resettable::Reset),
            _ => argument,
        })
        .mut_subcommands(without_empty_variables)
}

/// Names a bad setting in one line on standard error, and returns the status to exit with.
pub fn bad_setting(error: &dyn Display) -> ExitCode {
    print_error(&format_args!("error: {error}"));
    ExitCode::from(BAD_SETTING)
}

/// Prints a line on standard output.
///
/// An error is ignored: standard output may be closed or full, which is no reason to fail after the
/// work is done. `println!` would panic.
pub fn print(line: &dyn Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// Prints a line on standard error, and ignores an error as [`print()`] does.
pub(super) fn print_error(line: &dyn Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// The database's URL, or a file that holds it. It has no `Debug`, which would show the password.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// URL of the database: postgres://role:password@host:5432/database
    #[arg(long, env, hide_env_values = true, global = true)]
    database_url: Option<String>,

    /// File that holds the URL instead, such as a secret mounted by an orchestrator
    #[arg(long, env, global = true, conflicts_with = "database_url")]
    database_url_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The database at the URL. Sessions show up in `pg_stat_activity` under `application_name`.
    ///
    /// # Errors
    /// When there is no valid URL. The error names the setting and shows no part of the URL.
    pub fn parse(&self, application_name: &str) -> Result<Database, String> {
        match (&self.database_url, &self.database_url_file) {
            (Some(url), _) => Database::parse(url, application_name)
                .map_err(|error| format!("DATABASE_URL: {error}")),
            (None, Some(file)) => {
                Database::parse_file(file, application_name).map_err(|error| error.to_string())
            }
            (None, None) => Err("neither DATABASE_URL nor DATABASE_URL_FILE is set".to_owned()),
        }
    }
}
