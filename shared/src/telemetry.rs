//! Logs: sentences for people on a terminal, one JSON object a line for everything else.

use std::env;
use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

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
///
/// # Errors
/// When `RUST_LOG` holds no filters.
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
    // It fails only when logging has been started already, as by the first of two tests in one process.
    let _ = match format.unwrap_or(default) {
        LogFormat::Text => lines.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// A `RUST_LOG` that holds no filters.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG: {0}")]
pub struct BadFilters(ParseError);
