//! The loop that attempts the due round at each tick, and every two seconds in case a tick was
//! missed. A failed round is retried with backoff. Only a stop ends the loop.

use std::time::Duration;

use shared::program::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::runner::{Next, RoundRunner};

/// How long after a check the worker checks again, without a tick.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The longest delay, before jitter, until a failed round is retried. Not shorter: each retry may
/// cost a whole round's work.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Attempts the due round at each wake-up, and at an interval without one, until the stop.
pub(crate) async fn attempt_until(
    stop: &CancellationToken,
    runner: &mut RoundRunner,
    wakeups: &mut mpsc::Receiver<()>,
) {
    let mut delay = Duration::ZERO;
    let mut has_failed = false;
    let mut backoff = Backoff::new(MAX_RETRY_DELAY);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(delay) => {}
            // A tick does not cut the delay after a failure short.
            Some(()) = wakeups.recv(), if !has_failed => {}
        }
        has_failed = false;
        delay = match runner.attempt(stop).await {
            Next::Wait => {
                backoff.reset();
                CHECK_INTERVAL
            }
            Next::Retry(error) => {
                has_failed = true;
                backoff.next_delay(&error)
            }
            Next::Stop => return,
        };
    }
}
