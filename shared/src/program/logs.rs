//! Logs on standard error: text on a terminal, one JSON object per line elsewhere.
//!
//! Standard error may be a pipe that no process reads, or a file on a full disk. A thread that
//! wrote to it would hang with all of its connections. So lines are queued, up to a bound, and one
//! dedicated thread writes them in their order. Logging never blocks and never fails. A line that
//! does not fit into the queue, or can't be written, is dropped and counted.
//!
//! Not `tracing_appender::non_blocking`: it does not count lines that can't be written, and it can
//! print to standard output at the end.

use std::env;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use prometheus_client::metrics::counter::Counter;
use tracing::warn;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Maximum number of lines that wait to be written: usually some MiB.
const MAX_QUEUED_LINES: usize = 8192;
/// How long the end of a program waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often [`flush`] checks the queue.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How many lines are queued or being written.
static QUEUED_LINES: AtomicUsize = AtomicUsize::new(0);
/// How many lines were dropped since the start.
pub(super) static DROPPED_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

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
/// Without a `format`, a terminal gets text and everything else JSON. Call it once in a process.
///
/// # Errors
/// When `RUST_LOG` is not valid, which the error names.
pub fn start(format: Option<LogFormat>, default_filters: &str) -> Result<(), String> {
    let is_terminal = stderr().is_terminal();
    let filter = filters(default_filters).map_err(|error| format!("RUST_LOG: {error}"))?;
    let queue = LogQueue::start();
    let lines = fmt::layer()
        // Otherwise it prints its own errors, and panics if it can't write to standard error.
        .log_internal_errors(false)
        .with_writer(move || queue.clone());
    let is_text = format.map_or(is_terminal, |format| format == LogFormat::Text);
    let lines = if is_text && is_terminal {
        // In colour, unless `NO_COLOR` is set.
        lines.with_target(false).boxed()
    } else if is_text {
        lines.with_target(false).with_ansi(false).boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    // Fails only in a second call.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    Ok(())
}

/// The filters of `RUST_LOG`: a level, or `target=level`, or several of them with commas in
/// between.
fn filters(default: &str) -> Result<Targets, ParseError> {
    // An empty filter would mean `error`, and orchestrators pass a blank variable as an empty one.
    let filters = env::var("RUST_LOG").unwrap_or_default();
    let filters = filters.split(',').map(str::trim);
    let filters: Vec<_> = filters.filter(|filter| !filter.is_empty()).collect();
    if filters.is_empty() {
        default.parse()
    } else {
        filters.join(",").parse()
    }
}

/// Waits until everything that was logged is written, for a second at most. Call it before the
/// process ends.
pub fn flush() {
    let started_at = Instant::now();
    while QUEUED_LINES.load(Ordering::Acquire) > 0 && started_at.elapsed() < FLUSH_TIMEOUT {
        thread::sleep(FLUSH_POLL_INTERVAL);
    }
}

/// The reason for a state that lasts, so that it is logged once and not at each attempt.
#[derive(Debug, Default)]
pub struct LastReason(Option<String>);

impl LastReason {
    /// Records the reason. True if it differs from the last one: then log it.
    pub fn replace(&mut self, reason: String) -> bool {
        let is_new = self.0.as_ref() != Some(&reason);
        self.0 = Some(reason);
        is_new
    }

    /// Forgets the reason, because the state has ended. True if there was one.
    pub fn clear(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Queues what is written to it. The subscriber writes one whole line at a time.
#[derive(Clone)]
struct LogQueue(SyncSender<Vec<u8>>);

impl LogQueue {
    /// A queue, and the thread that writes its lines. Without that thread all lines are dropped.
    fn start() -> Self {
        let (queue, lines) = sync_channel(MAX_QUEUED_LINES);
        let _ = thread::Builder::new().spawn(move || write_lines(&lines));
        Self(queue)
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUED_LINES.fetch_add(1, Ordering::Relaxed);
        if self.0.try_send(line.to_vec()).is_err() {
            QUEUED_LINES.fetch_sub(1, Ordering::Relaxed);
            DROPPED_LINES.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Vec<u8>>) {
    let mut reported = 0;
    for line in lines {
        // One write per line, because other processes may write to the same pipe.
        let written = stderr().write_all(&line);
        QUEUED_LINES.fetch_sub(1, Ordering::Release);
        let dropped = DROPPED_LINES.get();
        if written.is_err() {
            DROPPED_LINES.inc();
        } else if dropped > reported {
            reported = dropped;
            warn!(
                event = "log_lines_dropped",
                total = dropped,
                "log lines were dropped: standard error could not be written, or was not read"
            );
        }
    }
}
