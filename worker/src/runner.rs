//! Attempts the due round at each tick, and between ticks in case one was missed. Each attempt
//! connects if needed, runs the due round, and counts and logs the outcome. A failed one is retried
//! with backoff.
//!
//! The session is kept from one attempt to the next. It is dropped after an error, and when an
//! attempt is dropped because the worker stops. The server then soon notices the closed connection
//! (`client_connection_check_interval`), and rolls back what is not committed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use shared::db::{Backoff, Database, Error, Session};
use shared::domain::rounds::{self, Outcome};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::outcome_log::OutcomeLog;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// How long the worker waits for a tick before it checks without one.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum delay, before jitter, until a failed round is retried. A shorter one would waste work,
/// because each retry may cost a whole round.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Runs rounds, one at a time over one session.
pub(crate) struct RoundRunner {
    database: Database,
    schedule: Schedule,
    cooldown: TimeDelta,
    round_timeout: Duration,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    log: OutcomeLog,
    /// `None` during an attempt, and after one that failed.
    session: Option<Session>,
}

impl RoundRunner {
    pub(crate) fn new(
        settings: Settings,
        database: &Database,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let round_timeout = settings.round_timeout;
        Self {
            database: database.clone().with_statement_timeout(round_timeout),
            cooldown: TimeDelta::from_std(settings.cooldown)
                .expect("the parser of the setting allows a day at most"),
            schedule: settings.schedule,
            round_timeout,
            health,
            metrics,
            log: OutcomeLog::default(),
            session: None,
        }
    }

    /// Attempts the due round at each wake-up, and every [`CHECK_INTERVAL`] if none comes. Nothing
    /// ends this but dropping it.
    pub(crate) async fn run(mut self, wakeups: &mut mpsc::Receiver<()>) -> Infallible {
        let mut delay = Duration::ZERO;
        let mut has_failed = false;
        let mut backoff = Backoff::new(MAX_RETRY_DELAY);
        loop {
            tokio::select! {
                () = sleep(delay) => {}
                // A tick does not cut the delay after a failure short.
                Some(()) = wakeups.recv(), if !has_failed => {}
            }
            let result = self.attempt().await;
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

    /// Does the due round, if there is one.
    ///
    /// # Errors
    /// When the attempt failed, which has been counted and logged: retry it.
    async fn attempt(&mut self) -> Result<(), Error> {
        match self.run_due_round().await {
            Ok(outcome) => {
                self.health.set_had_outcome();
                self.metrics.record_outcome(&outcome);
                self.log.log_outcome(&outcome);
                Ok(())
            }
            Err(error) => {
                self.metrics.record_failure();
                self.log.log_error(&error);
                Err(error)
            }
        }
    }

    async fn run_due_round(&mut self) -> Result<Outcome, Error> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.database.connect().await?,
        };
        let latest_tick = |at| self.schedule.latest_tick(at);
        let outcome =
            rounds::run_due(&mut session, latest_tick, self.cooldown, self.round_timeout).await?;
        self.session = Some(session);
        Ok(outcome)
    }
}
