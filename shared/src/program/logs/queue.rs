//! Log lines between the threads that log and the one that writes.
//!
//! Standard error may be a pipe that no process reads, or a file on a full disk. A thread that
//! wrote to it would hang with all of its connections. So lines are queued, up to a bound, and one
//! dedicated thread writes them. Their order is kept; it is not promised that each is written.
//!
//! `tracing_appender::non_blocking` does not fit: it does not count what can't be written, and it
//! prints when its flush times out, which blocks or panics in the very case that this is for.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tracing::warn;

/// Maximum number of bytes that wait to be written: thousands of lines, far less than a replica's
/// memory.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// How long the end of a program waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue of this process.
pub(super) static QUEUE: LogQueue = LogQueue {
    state: Mutex::new(State {
        lines: Vec::new(),
        writing: false,
    }),
    changed: Condvar::new(),
    dropped_lines: AtomicU64::new(0),
};

pub(super) struct LogQueue {
    state: Mutex<State>,
    /// Notified when lines are queued, and when all of them are written.
    changed: Condvar,
    dropped_lines: AtomicU64,
}

struct State {
    /// Whole lines, one after the other.
    lines: Vec<u8>,
    /// Whether lines that were taken out of the queue are still being written.
    writing: bool,
}

impl LogQueue {
    /// Writes queued lines to `output` for ever.
    pub(super) fn write_lines(&self, mut output: impl Write) {
        let mut reported = 0;
        let mut can_write = true;
        loop {
            let lines = self.take_lines();
            let dropped = self.dropped_lines();
            // The queue is empty now, so this line fits, and it stands where lines are missing.
            if can_write && dropped > reported {
                reported = dropped;
                warn!(
                    event = "log_lines_dropped",
                    total = dropped,
                    "log lines were dropped: standard error could not be written, or was not read"
                );
            }
            can_write = true;
            // One write per line, because other processes may write to the same pipe.
            for line in lines.split_inclusive(|&byte| byte == b'\n') {
                if output.write_all(line).is_err() {
                    can_write = false;
                    self.count_dropped();
                }
            }
            self.state().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits until all lines are written, up to a limit.
    pub(super) fn flush(&self) {
        // A timeout needs no handling: the lines that are left can't be written.
        drop(
            self.changed
                .wait_timeout_while(self.state(), FLUSH_TIMEOUT, |state| {
                    state.writing || !state.lines.is_empty()
                }),
        );
    }

    pub(super) fn dropped_lines(&self) -> u64 {
        self.dropped_lines.load(Ordering::Relaxed)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.lines.len() + line.len() > MAX_QUEUED_BYTES {
            self.count_dropped();
            return;
        }
        state.lines.extend_from_slice(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for lines, and takes all of them.
    fn take_lines(&self) -> Vec<u8> {
        let mut state = self
            .changed
            .wait_while(self.state(), |state| state.lines.is_empty())
            .expect("nothing panics while it holds this lock");
        state.writing = true;
        mem::take(&mut state.lines)
    }

    fn count_dropped(&self) {
        self.dropped_lines.fetch_add(1, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

/// Queues what is written to it. The subscriber writes one whole line at a time.
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
