//! One attempt at a round: connect if needed, run the due round, count and log the outcome.
//!
//! The session is kept from one attempt to the next, and dropped after any error.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use shared::db::{
    CONNECT_TIMEOUT, Database, Error, Session, SessionId, close, session_id, with_deadline,
};
use shared::rounds::{self, Outcome};
use shared::shutdown::StopSignals;
use shared::users::{self, Layout};
use tokio::pin;
use tokio::time::{interval, timeout};
use tracing::{debug, info};

use crate::clock_check::ClockCheck;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::outcome_log::OutcomeLog;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// How often the loop records a heartbeat while a round runs.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a stop waits for the request to cancel the statement, and then for the rollback.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// What the loop does after an attempt.
pub(crate) enum Next {
    /// The database has decided: wait for the next tick or check.
    Wait,
    /// The attempt failed: retry after a delay.
    Retry,
    /// Stop: this signal arrived. A running round was rolled back or is done.
    Stop(&'static str),
}

/// Runs rounds one at a time.
pub(crate) struct Runner {
    database: Database,
    schedule: Schedule,
    cooldown: TimeDelta,
    round_timeout: Duration,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    log: OutcomeLog,
    clock: ClockCheck,
    connected: Option<Connected>,
}

/// A connected session, and what was read when it was opened.
struct Connected {
    session: Session,
    id: SessionId,
    layout: Layout,
}

impl Runner {
    pub(crate) fn new(
        settings: Settings,
        database: &Database,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let round_timeout = settings.round_timeout.into();
        Self {
            database: database.clone().statement_timeout(round_timeout),
            cooldown: settings.cooldown(),
            schedule: settings.schedule,
            round_timeout,
            health,
            clock: ClockCheck::new(Arc::clone(&metrics)),
            metrics,
            log: OutcomeLog::default(),
            connected: None,
        }
    }

    /// Does the due round, if there is one. A signal meanwhile cancels it.
    pub(crate) async fn attempt(&mut self, signals: &mut StopSignals) -> Next {
        self.health.loop_heartbeat();
        let mut connected = if let Some(connected) = self.connected.take() {
            connected
        } else {
            let result = tokio::select! {
                result = self.connect() => result,
                signal = signals.next() => return Next::Stop(signal),
            };
            match result {
                Ok(connected) => connected,
                Err(error) => {
                    self.on_error(&error);
                    return Next::Retry;
                }
            }
        };
        // Before the round, which deletes rows that are far ahead.
        let checked = tokio::select! {
            checked = self.clock.check(&mut connected.session) => checked,
            signal = signals.next() => return Next::Stop(signal),
        };
        if let Err(error) = checked {
            self.on_error(&error);
            return Next::Retry;
        }
        let (result, signal) = self.run_cancellable(&mut connected, signals).await;
        if let Some(signal) = signal {
            if let Ok(outcome) = result {
                self.on_outcome(&outcome);
            } else {
                info!(
                    event = "round_cancelled",
                    "round cancelled by the stop signal"
                );
            }
            return Next::Stop(signal);
        }
        match result {
            Ok(outcome) => {
                self.connected = Some(connected);
                self.on_outcome(&outcome);
                Next::Wait
            }
            Err(error) => {
                self.on_error(&error);
                Next::Retry
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
        with_deadline(CONNECT_TIMEOUT, async {
            let id = session_id(&mut session).await?;
            let layout = users::layout(&mut session).await?;
            Ok(Connected {
                session,
                id,
                layout,
            })
        })
        .await
    }

    /// Runs the due round. After a signal it cancels the running statement, and returns an error
    /// unless the round was done before that.
    async fn run_cancellable(
        &self,
        connected: &mut Connected,
        signals: &mut StopSignals,
    ) -> (Result<Outcome, Error>, Option<&'static str>) {
        let round = rounds::run_due(
            &mut connected.session,
            connected.layout,
            |at| self.schedule.latest_tick(at),
            self.cooldown,
            self.round_timeout,
        );
        pin!(round);
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        loop {
            tokio::select! {
                result = &mut round => return (result, None),
                _ = heartbeat.tick() => self.health.loop_heartbeat(),
                signal = signals.next() => {
                    if let Err(error) = self.database.cancel(connected.id, CANCEL_TIMEOUT).await {
                        // The server rolls the round back when the connection closes.
                        debug!(%error, "cannot cancel the round");
                    }
                    let result = timeout(CANCEL_TIMEOUT, &mut round)
                        .await
                        .unwrap_or(Err(Error::Deadline(CANCEL_TIMEOUT)));
                    return (result, Some(signal));
                }
            }
        }
    }

    fn on_outcome(&mut self, outcome: &Outcome) {
        self.health.record_outcome();
        self.metrics.record_outcome(outcome);
        self.log.log_outcome(outcome);
    }

    fn on_error(&mut self, error: &Error) {
        self.metrics.record_failure();
        self.log.log_error(error);
    }
}
