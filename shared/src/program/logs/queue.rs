//! Log lines between the threads that log and the one that writes.
//!
//! Standard error may be a pipe that no process reads, or a file on a full disk. A thread that
//! wrote to it would hang with all of its connections. So lines are queued, up to a bound, and one
//! dedicated thread writes them. Their order is kept; it is not promised that each is written.
//!
//! `tracing_appender::non_blocking` would not be shorter: it takes a writer that counts what can't
//! be written, and a thread that ends it, because it prints to standard output when its queue is
//! full at the end.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::warn;

/// Maximum number of lines that wait to be written: usually some MiB.
const MAX_QUEUED_LINES: usize = 8192;
/// How long the end of a program waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// How many lines did not fit into the queue, or could not be written.
pub(super) fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

fn count_dropped() {
    DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
}

enum Message {
    Line(Vec<u8>),
    /// Answered once all lines before it are written.
    Flush(Sender<()>),
}

/// Queues what is written to it. The subscriber writes one whole line at a time.
#[derive(Clone)]
pub(super) struct LogQueue(SyncSender<Message>);

impl LogQueue {
    /// A queue, and the thread that writes its lines to `output`. Without that thread all lines
    /// are dropped.
    pub(super) fn start(output: impl Write + Send + 'static) -> Self {
        let (queue, messages) = sync_channel(MAX_QUEUED_LINES);
        let _ = thread::Builder::new().spawn(move || write_lines(&messages, output));
        Self(queue)
    }

    /// Waits until all lines are written, up to a limit.
    pub(super) fn flush(&self) {
        let (written, is_written) = channel();
        let queue = self.0.clone();
        // In a thread, because it waits while the queue is full.
        let _ = thread::Builder::new().spawn(move || queue.send(Message::Flush(written)));
        // A timeout needs no handling: the lines that are left can't be written.
        let _ = is_written.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn write_lines(messages: &Receiver<Message>, mut output: impl Write) {
    let mut reported = 0;
    for message in messages {
        match message {
            // One write per line, because other processes may write to the same pipe.
            Message::Line(line) if output.write_all(&line).is_err() => count_dropped(),
            Message::Line(_) => {
                let dropped = dropped_lines();
                if dropped > reported {
                    reported = dropped;
                    warn!(
                        event = "log_lines_dropped",
                        total = dropped,
                        "log lines were dropped: standard error could not be written, or was not \
                         read"
                    );
                }
            }
            Message::Flush(written) => {
                // The program may have stopped waiting.
                let _ = written.send(());
            }
        }
    }
}

impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            count_dropped();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
