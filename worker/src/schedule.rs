//! When ticks are due, and the scheduler that wakes the worker for them. The only file that uses
//! tokio-cron-scheduler.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SubsecRound, Utc};
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds};
use tokio::sync::mpsc;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

/// The default filters for logs: without the scheduler's own steps.
pub(crate) const LOG_FILTERS: &str = "info,tokio_cron_scheduler=warn";

/// For croner: a search finds the time that it starts from, too.
const INCLUSIVE: bool = true;
/// When a running scheduler calls its heartbeat.
const HEARTBEAT_PATTERN: &str = "*/5 * * * * *";

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

    /// Starts a scheduler that sends to `wakeups` at each tick of this machine's clock. That is
    /// only a hint: if the channel is full, the tick is dropped, since one pending wake-up is
    /// enough.
    ///
    /// `heartbeat` is called every few seconds, whatever the schedule is. It stops when the
    /// scheduler stops, and when the clock is set back: then the scheduler pauses until the old
    /// time.
    pub(crate) async fn start_scheduler(
        &self,
        wakeups: mpsc::Sender<()>,
        mut heartbeat: impl FnMut() + Send + Sync + 'static,
    ) -> Result<SchedulerHandle, JobSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        let tick = Job::new(self.pattern.as_str(), move |_, _| {
            let _ = wakeups.try_send(());
        })?;
        scheduler.add(tick).await?;
        let heartbeat = Job::new(HEARTBEAT_PATTERN, move |_, _| heartbeat())?;
        scheduler.add(heartbeat).await?;
        scheduler.start().await?;
        Ok(SchedulerHandle(scheduler))
    }
}

/// A running scheduler.
pub(crate) struct SchedulerHandle(JobScheduler);

impl SchedulerHandle {
    /// Stops it. A wake-up may still arrive.
    pub(crate) async fn stop(mut self) {
        // Fails only if the scheduler has stopped already.
        let _ = self.0.shutdown().await;
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.pattern)
    }
}

/// Why a text is no schedule.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// It is not a cron pattern with seconds.
    #[error(transparent)]
    Pattern(#[from] CronError),
    /// It is a pattern like `0 0 0 31 2 *`.
    #[error("no such time exists")]
    Never,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(pattern: &str) -> Result<Self, ScheduleError> {
        let cron = CronParser::builder()
            .seconds(Seconds::Required)
            // As in the scheduler: if both day fields are given, a day must match both.
            .dom_and_dow(true)
            .build()
            .parse(pattern)?;
        if cron
            .find_next_occurrence(&DateTime::UNIX_EPOCH, INCLUSIVE)
            .is_err()
        {
            return Err(ScheduleError::Never);
        }
        Ok(Self {
            pattern: pattern.to_owned(),
            cron,
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("it is a time in RFC 3339")
    }

    fn latest(pattern: &str, time: &str) -> Option<DateTime<Utc>> {
        let schedule: Schedule = pattern.parse().expect("it is a cron pattern");
        schedule.latest_tick(at(time))
    }

    #[test]
    fn a_tick_is_due_from_its_own_second_on() {
        let minute = "0 * * * * *";
        assert_eq!(
            latest(minute, "2026-01-01T00:00:00Z"),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(
            latest(minute, "2026-01-01T00:00:00.999Z"),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(
            latest(minute, "2025-12-31T23:59:59.999Z"),
            Some(at("2025-12-31T23:59:00Z"))
        );
    }

    #[test]
    fn the_latest_tick_is_the_one_that_counting_seconds_finds() {
        for (pattern, is_tick) in [
            (
                "*/7 * * * * *",
                (|at| at.timestamp() % 60 % 7 == 0) as fn(DateTime<Utc>) -> bool,
            ),
            ("30 */2 * * * *", |at| at.timestamp() % 120 == 30),
            ("0 0 3 * * *", |at| at.timestamp() % 86_400 == 3 * 3600),
        ] {
            let schedule: Schedule = pattern.parse().expect("it is a cron pattern");
            for offset in (0..200_000).step_by(977) {
                let now = at("2026-02-28T12:00:00.5Z") + TimeDelta::seconds(offset);
                let counted = (0..=2 * 86_400)
                    .map(|seconds| now.trunc_subsecs(0) - TimeDelta::seconds(seconds))
                    .find(|&candidate| is_tick(candidate));
                assert_eq!(schedule.latest_tick(now), counted, "{pattern} at {now}");
            }
        }
    }

    #[test]
    fn a_pattern_without_an_earlier_tick_has_none_due() {
        assert_eq!(latest("0 0 0 1 1 * 2099", "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_pattern_needs_a_time_that_exists() {
        for pattern in ["0 0 0 31 2 *", "0 0 0 30 2 *", "0 0 0 31 4,6,9,11 *"] {
            let result = pattern.parse::<Schedule>();
            assert!(
                matches!(result, Err(ScheduleError::Never)),
                "{pattern}: {result:?}"
            );
        }
        assert_eq!(
            latest("0 0 0 29 2 *", "2026-01-01T00:00:00Z"),
            Some(at("2024-02-29T00:00:00Z"))
        );
    }

    #[test]
    fn a_pattern_needs_seconds() {
        assert!("* * * * *".parse::<Schedule>().is_err());
    }
}
