//! Stop signals: SIGINT (Ctrl-C) and SIGTERM mean the same in every program.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::debug;

/// Signals that follow the first one this soon belong to the same stop. A supervisor may signal the
/// process group and the process, or pass on a Ctrl-C that the whole group has received.
const SAME_STOP_INTERVAL: Duration = Duration::from_secs(1);

/// The signals that ask a program to stop.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// When the last stop began.
    stop_at: Option<Instant>,
}

impl StopSignals {
    /// Registers the handlers. From here on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// When the kernel does not accept a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            stop_at: None,
        })
    }

    /// Waits for the next stop, and returns the name of its signal. Signals within a second are one
    /// stop. Cancel safe.
    pub async fn next(&mut self) -> &'static str {
        loop {
            let signal = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
            };
            match self.stop_at {
                Some(stop_at) if stop_at.elapsed() < SAME_STOP_INTERVAL => {
                    debug!(
                        event = "stop_repeated",
                        signal, "the same stop, signalled again"
                    );
                }
                _ => {
                    self.stop_at = Some(Instant::now());
                    return signal;
                }
            }
        }
    }
}
