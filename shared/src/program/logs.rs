//! Logs on standard error: text on a terminal, one JSON object per line elsewhere.
//!
//! Lines leave over `queue`, so logging never blocks and never fails. Lines that can't be
//! written are dropped and counted.

mod queue;

use std::env;
use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use queue::LogQueue;

/// The queue of this process, once logging has started.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging with the filters of `RUST_LOG`, or `default_filters` if it is empty or not set.
///
/// Without a `format`, a terminal gets text and everything else JSON. Only the first call in a
/// process has an effect.
///
/// # Errors
/// When `RUST_LOG` is not valid.
pub fn start(format: Option<LogFormat>, default_filters: &str) -> Result<LogGuard, BadFilters> {
    let is_terminal = stderr().is_terminal();
    let filter = filters(default_filters).map_err(BadFilters)?;
    let queue = QUEUE.get_or_init(|| LogQueue::start(stderr()));
    let lines = fmt::layer()
        // It would print its own errors, and panic where standard error can't be written.
        .log_internal_errors(false)
        .with_writer(|| queue.clone());
    let default = if is_terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    };
    let lines = match format.unwrap_or(default) {
        LogFormat::Text => lines
            .with_ansi(is_terminal && is_colour_wanted())
            .with_target(false)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Fails only if logging has been started before.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    Ok(LogGuard(()))
}

/// The filters of `RUST_LOG`: a level, or `target=level`, or several of them with commas in between.
fn filters(default: &str) -> Result<Targets, ParseError> {
    // Empty ones would be read as `error`. Orchestrators pass a variable that was left blank so.
    let filters = env::var("RUST_LOG").unwrap_or_default();
    let filters = filters.split(',').map(str::trim);
    match &*filters
        .filter(|filter| !filter.is_empty())
        .collect::<Vec<_>>()
    {
        [] => default.parse(),
        filters => filters.join(",").parse(),
    }
}

/// Whether `NO_COLOR` is unset or empty (<https://no-color.org>).
fn is_colour_wanted() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Waits until everything that was logged is written, for a second at most. For a program that
/// exits without dropping its [`LogGuard`].
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// How many log lines were dropped since the start: standard error could not be written, or was not
/// read for too long.
#[must_use]
pub fn dropped_lines() -> u64 {
    queue::dropped_lines()
}

/// Flushes the log when it is dropped, so `main` holds it to the end.
#[derive(Debug)]
#[must_use = "without it the last lines may be lost"]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        flush();
    }
}

/// `RUST_LOG` is not a valid list of filters.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG: {0}")]
pub struct BadFilters(ParseError);
