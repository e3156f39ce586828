//! Logs on standard error: text on a terminal, one JSON object per line elsewhere.

use std::env;
use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging with the filters of `RUST_LOG`, or `default_filters` if it is not set.
///
/// Without a `format`, a terminal gets text and everything else JSON. Only the first call in a
/// process has an effect.
///
/// # Errors
/// When `RUST_LOG` is not valid.
pub fn start(format: Option<LogFormat>, default_filters: &str) -> Result<(), BadFilters> {
    let terminal = stderr().is_terminal();
    let filters = env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| default_filters.to_owned());
    let filter = EnvFilter::builder().parse(filters).map_err(BadFilters)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let default = if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    };
    // Fails only if logging has been started before, as by another test in this process.
    let _ = match format.unwrap_or(default) {
        LogFormat::Text => lines.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// `RUST_LOG` is not a valid list of filters.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG: {0}")]
pub struct BadFilters(ParseError);
