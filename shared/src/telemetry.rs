//! Logs: sentences for people on a terminal, one JSON object a line for everything else.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error, with the filters of `RUST_LOG`, or with `default_filters` where that is not set.
///
/// Without a `format`, a terminal gets text and everything else JSON. Only the first call of a process has an effect.
pub fn start(format: Option<LogFormat>, default_filters: &str) {
    let terminal = stderr().is_terminal();
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filters));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let default = if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    };
    // It fails only when logging has been started already, as by the first of two tests in one process.
    let _ = match format.unwrap_or(default) {
        LogFormat::Text => lines.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
