//! One attempt at a round: connect if needed, run the due round, count and log the outcome.
//!
//! The session is kept from one attempt to the next, and dropped after any error.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use shared::db::{
    CONNECT_TIMEOUT, Database, Error, Session, SessionId, close, read_session_id, with_timeout,
};
use shared::domain::rounds::{self, Outcome};
use shared::domain::users::{self, Layout};
use tokio::pin;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::metrics::Metrics;
use crate::outcome_log::OutcomeLog;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// How long a stop waits for the cancel request, connecting included, and then as long again for
/// the rollback.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// What the loop does after an attempt.
pub(crate) enum Next {
    /// The database has decided: wait for the next tick or check.
    Wait,
    /// The attempt failed: retry after a delay.
    Retry(Error),
    /// The worker stops. A running round was rolled back or is done.
    Stop,
}

/// Runs rounds, one at a time over one session.
pub(crate) struct RoundRunner {
    database: Database,
    schedule: Schedule,
    cooldown: TimeDelta,
    round_timeout: Duration,
    metrics: Arc<Metrics>,
    log: OutcomeLog,
    connected: Option<Connected>,
}

/// A connected session, and what was read when it was opened.
struct Connected {
    session: Session,
    id: SessionId,
    layout: Layout,
}

impl RoundRunner {
    pub(crate) fn new(settings: Settings, database: &Database, metrics: Arc<Metrics>) -> Self {
        let round_timeout = settings.round_timeout.into();
        Self {
            database: database.clone().with_statement_timeout(round_timeout),
            cooldown: settings.cooldown(),
            schedule: settings.schedule,
            round_timeout,
            metrics,
            log: OutcomeLog::default(),
            connected: None,
        }
    }

    /// Does the due round, if there is one. A stop meanwhile cancels it.
    pub(crate) async fn attempt(&mut self, stop: &CancellationToken) -> Next {
        let connected = match self.connected.take() {
            Some(connected) => Some(Ok(connected)),
            None => stop.run_until_cancelled(self.connect()).await,
        };
        let result = match connected {
            Some(Ok(mut connected)) => {
                let result = self.run_due(&mut connected, stop).await;
                // An error drops the session.
                if result.is_ok() {
                    self.connected = Some(connected);
                }
                result
            }
            Some(Err(error)) => Err(error),
            None => return Next::Stop,
        };
        match result {
            Ok(outcome) => {
                self.metrics.record_outcome(&outcome);
                self.log.log_outcome(&outcome);
                Next::Wait
            }
            Err(error) if stop.is_cancelled() => {
                info!(
                    event = "round_cancelled",
                    %error,
                    "the attempt failed after the stop signal, and is not retried"
                );
                Next::Stop
            }
            Err(error) => {
                self.metrics.record_failure();
                self.log.log_error(&error);
                Next::Retry(error)
            }
        }
    }

    /// Closes the session.
    pub(crate) async fn close(self) {
        if let Some(connected) = self.connected {
            close(connected.session).await;
        }
    }

    async fn connect(&self) -> Result<Connected, Error> {
        let mut session = self.database.connect(CONNECT_TIMEOUT).await?;
        with_timeout(CONNECT_TIMEOUT, async {
            let id = read_session_id(&mut session).await?;
            let layout = users::read_layout(&mut session).await?;
            Ok(Connected {
                session,
                id,
                layout,
            })
        })
        .await
    }

    /// Runs the due round. A stop cancels the running statement, which is an error unless the round
    /// was done before that.
    async fn run_due(
        &mut self,
        connected: &mut Connected,
        stop: &CancellationToken,
    ) -> Result<Outcome, Error> {
        let round = rounds::run_due(
            &mut connected.session,
            connected.layout,
            |at| self.schedule.latest_tick(at),
            self.cooldown,
            self.round_timeout,
        );
        pin!(round);
        tokio::select! {
            result = &mut round => result,
            () = stop.cancelled() => {
                self.cancel(connected.id).await;
                with_timeout(CANCEL_TIMEOUT, round).await
            }
        }
    }

    /// Cancels the running statement of a session.
    async fn cancel(&self, session: SessionId) {
        if let Err(error) = self.database.cancel(session, CANCEL_TIMEOUT).await {
            // The server rolls the round back when the connection closes.
            debug!(%error, "cannot cancel the round");
        }
    }
}
