//! Delays between retries.

use std::time::Duration;

use super::Error;

/// The first delay before a retry, without its jitter.
const INITIAL_DELAY: Duration = Duration::from_millis(100);

/// Added to the delay after an error that is costly to retry. Otherwise each replica would add
/// three lines a second to the server's log.
const COSTLY_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Delays that double up to a maximum. Jitter adds up to 100 % to each, so that clients that failed
/// together do not retry together. They are longer if a retry is costly
/// ([`Error::is_costly_to_retry`]).
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays of at most `max`, before jitter, unless a retry is costly.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self {
            next: INITIAL_DELAY.min(max),
            max,
        }
    }

    /// The delay before the next retry, after an attempt that failed with `error`.
    pub fn next_delay(&mut self, error: &Error) -> Duration {
        let delay = self.next;
        self.next = self.max.min(delay * 2);
        let delay = delay.mul_f64(1.0 + rand::random::<f64>());
        if error.is_costly_to_retry() {
            COSTLY_RETRY_DELAY + delay
        } else {
            delay
        }
    }

    /// Starts again with the shortest delay, after a success.
    pub fn reset(&mut self) {
        *self = Self::new(self.max);
    }
}
