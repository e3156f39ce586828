//! One attempt at a round: connect if needed, run the due round, count and log the outcome.
//!
//! The session is kept from one attempt to the next. It is dropped after an error, and when an
//! attempt is dropped because the worker stops. The server then soon notices the closed connection
//! (`client_connection_check_interval`), and rolls back what is not committed.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use shared::db::{Database, Error, Session};
use shared::domain::rounds::{self, Outcome};

use crate::metrics::Metrics;
use crate::outcome_log::OutcomeLog;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// Runs rounds, one at a time over one session.
pub(crate) struct RoundRunner {
    database: Database,
    schedule: Schedule,
    cooldown: TimeDelta,
    round_timeout: Duration,
    metrics: Arc<Metrics>,
    log: OutcomeLog,
    /// `None` during an attempt, and after one that failed.
    session: Option<Session>,
}

impl RoundRunner {
    pub(crate) fn new(settings: Settings, database: &Database, metrics: Arc<Metrics>) -> Self {
        let round_timeout = settings.round_timeout;
        Self {
            database: database.clone().with_statement_timeout(round_timeout),
            cooldown: TimeDelta::from_std(settings.cooldown)
                .expect("the parser of the setting allows a day at most"),
            schedule: settings.schedule,
            round_timeout,
            metrics,
            log: OutcomeLog::default(),
            session: None,
        }
    }

    /// Does the due round, if there is one.
    ///
    /// # Errors
    /// When the attempt failed, which has been counted and logged: retry it.
    pub(crate) async fn attempt(&mut self) -> Result<(), Error> {
        match self.try_round().await {
            Ok(outcome) => {
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

    async fn try_round(&mut self) -> Result<Outcome, Error> {
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
