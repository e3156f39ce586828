//! When ticks are due, and the scheduler that wakes the worker for them. The only file that uses
//! tokio-cron-scheduler.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SubsecRound, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

/// The default filters for logs: without the scheduler's own steps.
pub(crate) const LOG_FILTERS: &str = "info,tokio_cron_scheduler=warn";

/// Tells croner that the start time of a search can be its result.
const INCLUSIVE: bool = true;

/// A cron pattern with seconds, read in UTC.
#[derive(Clone, Debug)]
pub struct Schedule {
    pattern: String,
    cron: Cron,
}

impl Schedule {
    /// The last tick at or before `at`, if there is one.
    #[must_use]
    pub fn latest_tick(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // croner copies a fraction of a second into its result.
        self.cron
            .find_previous_occurrence(&at.trunc_subsecs(0), INCLUSIVE)
            .ok()
    }

    /// Starts a scheduler that sends to `wakeups` at each tick by this machine's clock. A wake-up
    /// is only a hint: if the channel is full, it is dropped, since one pending wake-up is enough.
    /// When the clock is set back, the scheduler pauses until the old time is reached again, and
    /// only the worker's checks between ticks find due rounds.
    pub(crate) async fn start_scheduler(
        &self,
        wakeups: mpsc::Sender<()>,
    ) -> Result<JobScheduler, JobSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        let wake_up = Job::new(self.pattern.as_str(), move |_, _| {
            let _ = wakeups.try_send(());
        })?;
        scheduler.add(wake_up).await?;
        scheduler.start().await?;
        Ok(scheduler)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.pattern)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        let cron = CronParser::builder()
            .seconds(Seconds::Required)
            // As in the scheduler: if both day fields are given, a day must match both.
            .dom_and_dow(true)
            .build()
            .parse(pattern)
            .map_err(|error| error.to_string())?;
        if cron
            .find_next_occurrence(&DateTime::UNIX_EPOCH, INCLUSIVE)
            .is_err()
        {
            return Err("no such time exists".to_owned());
        }
        Ok(Self {
            pattern: pattern.to_owned(),
            cron,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(pattern: &str, at: &str) -> Option<String> {
        let schedule: Schedule = pattern.parse().expect("it is a cron pattern");
        let at = at.parse().expect("it is a time in RFC 3339");
        Some(schedule.latest_tick(at)?.to_rfc3339())
    }

    #[test]
    fn the_latest_tick_is_the_last_one_at_or_before_a_time() {
        for (pattern, at, tick_at) in [
            ("0 * * * * *", "00:00:00", "00:00:00"),
            ("0 * * * * *", "00:00:00.999", "00:00:00"),
            ("0 * * * * *", "00:00:59.999", "00:00:00"),
            ("*/7 * * * * *", "12:01:06.5", "12:01:00"),
            ("30 */2 * * * *", "13:02:29.999", "13:00:30"),
            ("0 0 3 * * *", "23:59:59", "03:00:00"),
        ] {
            assert_eq!(
                latest(pattern, &format!("2026-02-28T{at}Z")),
                Some(format!("2026-02-28T{tick_at}+00:00")),
                "{pattern} at {at}"
            );
        }
        let leap_day = latest("0 0 0 29 2 *", "2026-01-01T00:00:00Z");
        assert_eq!(leap_day, Some("2024-02-29T00:00:00+00:00".to_owned()));
        // Both day fields must match: a Friday the 13th.
        let friday = latest("0 0 0 13 * 5", "2026-03-31T00:00:00Z");
        assert_eq!(friday, Some("2026-03-13T00:00:00+00:00".to_owned()));
        assert_eq!(latest("0 0 0 1 1 * 2099", "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_pattern_needs_a_time_that_exists() {
        for pattern in ["0 0 0 31 2 *", "0 0 0 30 2 *", "0 0 0 31 4,6,9,11 *"] {
            let result = pattern.parse::<Schedule>();
            let error = result.expect_err(pattern);
            assert_eq!(error, "no such time exists", "{pattern}");
        }
        assert!("* * * * *".parse::<Schedule>().is_err(), "without seconds");
    }
}
