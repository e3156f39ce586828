//! Delays between retries.

use std::time::Duration;

/// The first delay before a retry, without its jitter.
const INITIAL_DELAY: Duration = Duration::from_millis(100);

/// Delays between retries. They double from 100 ms to a maximum. Jitter adds up to the same again,
/// so that clients that failed together do not retry together.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays of at most `max`, before jitter.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self {
            next: INITIAL_DELAY.min(max),
            max,
        }
    }

    /// The delay before the next retry.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = self.max.min(delay * 2);
        delay.mul_f64(1.0 + rand::random::<f64>())
    }

    /// Starts again with the shortest delay, after a success.
    pub fn reset(&mut self) {
        *self = Self::new(self.max);
    }
}
