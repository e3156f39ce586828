//! The watch over a listener's connections: now and then it looks at all of them, and ends those whose time is up.
//!
//! One timer does for all. A timer for each connection would be polled with each of its requests, twice, and cost as much
//! as parsing it.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::{AbortHandle, AbortRegistration};
use tokio::time::{MissedTickBehavior, interval};

use super::Limits;
use super::activity::{Activity, Verdict};

/// How often the watch looks: the precision of all limits.
const GLANCE: Duration = Duration::from_millis(500);

/// Who is watched.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    /// Gone when the connection is.
    activity: Weak<Activity>,
    connection: AbortHandle,
}

impl Watch {
    /// Begins to watch a connection, which is aborted when it is to end; what for, its activity knows.
    pub(super) fn begin(&self, activity: &Arc<Activity>) -> AbortRegistration {
        let (connection, registration) = AbortHandle::new_pair();
        self.all().push(Watched {
            activity: Arc::downgrade(activity),
            connection,
        });
        registration
    }

    /// Looks at all connections, for ever. `in_need` says whether those that do nothing should go.
    pub(super) async fn keep(&self, limits: Limits, in_need: impl Fn() -> bool) {
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            glance.tick().await;
            let in_need = in_need();
            // Thousands take a while, in which others come.
            let mut all = take(&mut *self.all());
            all.retain(|watched| {
                let Some(activity) = watched.activity.upgrade() else {
                    return false;
                };
                let fine = activity.judge(limits, in_need) == Verdict::Fine;
                if !fine {
                    watched.connection.abort();
                }
                fine
            });
            self.all().append(&mut all);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.0
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}
