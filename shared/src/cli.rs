//! Settings of a program, read once: a flag and an environment variable are the same setting.

use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

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
