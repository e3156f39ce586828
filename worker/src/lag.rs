//! How far rounds lag behind the schedule, by the database's clock.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use chrono::{DateTime, Utc};

use crate::schedule::Schedule;

/// The lag, from what the attempts have read from the database.
pub(crate) struct Lag {
    schedule: Schedule,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database_time: Option<DatabaseTime>,
    last_tick_at: Option<DateTime<Utc>>,
}

/// A time read from the database, which advances with this machine's monotonic clock until the next
/// one is read. So the lag ignores this machine's wall clock, and grows during an outage.
#[derive(Clone, Copy)]
struct DatabaseTime {
    time: DateTime<Utc>,
    read_at: Instant,
}

impl DatabaseTime {
    fn now(self) -> DateTime<Utc> {
        self.time + self.read_at.elapsed()
    }
}

impl Lag {
    pub(crate) fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            state: Mutex::default(),
        }
    }

    /// Records a time that has just been read from the database, and the newest tick that was done,
    /// if there is one.
    pub(crate) fn record(&self, database_time: DateTime<Utc>, last_tick_at: Option<DateTime<Utc>>) {
        let mut state = self.state();
        state.database_time = Some(DatabaseTime {
            time: database_time,
            read_at: Instant::now(),
        });
        state.last_tick_at = last_tick_at.or(state.last_tick_at);
    }

    /// Seconds between the newest tick with a round and the latest tick. `None` until a database
    /// time and a round are known, or if the schedule has had no tick.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let (now, last_tick_at) = {
            let state = self.state();
            (state.database_time?.now(), state.last_tick_at?)
        };
        let latest_tick = self.schedule.latest_tick(now)?;
        Some((latest_tick - last_tick_at).as_seconds_f64().max(0.0))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lag() -> Lag {
        Lag::new("0 * * * * *".parse().expect("it is a cron pattern"))
    }

    /// In the past, so that it differs from this machine's clock.
    fn at(time: &str) -> DateTime<Utc> {
        let text = format!("2020-07-30T{time}Z");
        text.parse().expect("it is a time in RFC 3339")
    }

    #[test]
    fn the_lag_is_counted_by_the_databases_clock() {
        let lag = lag();
        assert_eq!(lag.seconds(), None);
        lag.record(at("17:00:00"), Some(at("17:00:00")));
        assert_eq!(lag.seconds(), Some(0.0));
        lag.record(at("17:05:30"), Some(at("17:00:00")));
        assert_eq!(lag.seconds(), Some(300.0));
    }

    #[test]
    fn the_lag_grows_while_the_database_is_away() {
        let lag = lag();
        lag.record(at("17:00:00"), Some(at("17:00:00")));
        let two_minutes_ago = Instant::now()
            .checked_sub(Duration::from_mins(2))
            .expect("the machine has been up for longer");
        let mut state = lag.state();
        let database_time = state.database_time.as_mut();
        database_time.expect("a time was recorded").read_at = two_minutes_ago;
        drop(state);
        assert_eq!(lag.seconds(), Some(120.0));
    }
}
