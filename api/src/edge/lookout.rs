//! The lookout over a listener's connections: now and then it looks at all of them, and calls those whose time is up.
//!
//! One timer does for all. A timer for each connection would be polled twice with each of its requests, and be in no
//! cache by then.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::{AbortHandle, AbortRegistration};
use tokio::time::{MissedTickBehavior, interval};

use super::Limits;
use super::activity::{Activity, Verdict};

/// How often it looks: the precision of all limits.
const GLANCE: Duration = Duration::from_millis(500);

/// Who is looked at, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Lookout(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    /// Gone when the connection is.
    activity: Weak<Activity>,
    call: AbortHandle,
}

impl Lookout {
    /// Begins to look at a connection, until it is called: then it has to judge by itself, for it may have gone on since.
    pub(super) fn begin(&self, activity: &Arc<Activity>) -> AbortRegistration {
        let (call, registration) = AbortHandle::new_pair();
        self.watched().push(Watched {
            activity: Arc::downgrade(activity),
            call,
        });
        registration
    }

    /// Looks at all connections, for ever. `needed` says how many places should be made by those that do nothing.
    pub(super) async fn keep(&self, limits: Limits, needed: impl Fn() -> usize) {
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            glance.tick().await;
            let mut needed = needed();
            // To look at thousands takes a while, in which connections begin and end.
            let mut watched = take(&mut *self.watched());
            watched.retain(|Watched { activity, call }| {
                let Some(activity) = activity.upgrade() else {
                    return false;
                };
                let fine = activity.verdict(limits, needed > 0) == Verdict::Fine;
                if !fine {
                    needed = needed.saturating_sub(1);
                    call.abort();
                }
                fine
            });
            let mut others = self.watched();
            watched.append(&mut others);
            *others = watched;
        }
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
