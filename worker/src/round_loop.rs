//! The loop that attempts the due round at each tick, and between ticks in case one was missed. A
//! failed round is retried with backoff. Nothing ends the loop but dropping it.

use std::convert::Infallible;
use std::time::Duration;

use shared::db::Backoff;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::runner::RoundRunner;

/// How long the worker waits for a tick before it checks without one.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum delay, before jitter, until a failed round is retried. A shorter one would waste work,
/// because each retry may cost a whole round.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Attempts the due round at each wake-up, and every [`CHECK_INTERVAL`] if none comes.
pub(crate) async fn attempt_forever(
    runner: &mut RoundRunner,
    wakeups: &mut mpsc::Receiver<()>,
) -> Infallible {
    let mut delay = Duration::ZERO;
    let mut has_failed = false;
    let mut backoff = Backoff::new(MAX_RETRY_DELAY);
    loop {
        tokio::select! {
            () = sleep(delay) => {}
            // A tick does not cut the delay after a failure short.
            Some(()) = wakeups.recv(), if !has_failed => {}
        }
        let result = runner.attempt().await;
        has_failed = result.is_err();
        delay = match result {
            Ok(()) => {
                backoff.reset();
                CHECK_INTERVAL
            }
            Err(error) => backoff.next_delay(&error),
        };
    }
}
