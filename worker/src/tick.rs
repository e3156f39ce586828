//! The loop of `run`: woken by the schedule, and every two seconds to catch up what was missed. What failed is tried
//! again a little later each time. Nothing but a signal ends the loop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::TimeDelta;
use shared::db::{
    Connection, Database, Error, SessionId, backoff, close, session_id, with_deadline,
};
use shared::rounds::{self, Outcome};
use shared::shutdown::StopSignals;
use shared::users::{self, Layout};
use tokio::net::TcpListener;
use tokio::pin;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tracing::{Level, debug, error, info, warn};

use crate::admin;
use crate::metrics::Metrics;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// How often the worker looks for a tick that was missed, and shows that it is alive.
const LOOK: Duration = Duration::from_secs(2);
/// The longest pause before it tries again what failed, but for chance: each try may be a whole round's work.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the database may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a stop waits, first to have the running statement cancelled, then for the rollback.
const CANCEL: Duration = Duration::from_millis(500);

/// Does the round of every tick until a signal asks to stop.
///
/// # Errors
/// When the admin listener or the scheduler can't be started; nothing ends it later.
pub(crate) async fn run(settings: Settings, database: Database) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen().context("listening for signals")?;
    let metrics = Arc::new(Metrics::new(settings.schedule.clone()));
    let listener = TcpListener::bind(settings.admin_listen)
        .await
        .with_context(|| format!("ADMIN_LISTEN {}", settings.admin_listen))?;
    info!(
        admin = %listener.local_addr()?,
        schedule = %settings.schedule,
        cooldown_seconds = settings.cooldown.as_secs_f64(),
        "the worker starts"
    );
    let admin = tokio::spawn(admin::serve(listener, Arc::clone(&metrics)));

    let (wake, mut woken) = mpsc::channel(1);
    let heard = Arc::clone(&metrics);
    let wakening = settings
        .schedule
        .wake(wake, move || heard.scheduler_ran())
        .await
        .context("starting the scheduler")?;
    let cooldown = settings.cooldown();
    let mut worker = Worker {
        database: database.statement_timeout(settings.round_timeout.into()),
        schedule: settings.schedule,
        cooldown,
        round_timeout: settings.round_timeout.into(),
        metrics,
        session: None,
        said: None,
    };
    let mut pause = Duration::ZERO;
    let mut longer = backoff(PAUSE);
    let signal = loop {
        tokio::select! {
            biased;
            signal = stop.next() => break signal,
            () = sleep(pause) => {}
            Some(()) = woken.recv() => {}
        }
        pause = match worker.turn(&mut stop).await {
            Turn::Stopped(signal) => break signal,
            Turn::Failed => longer.next().unwrap_or(PAUSE),
            Turn::Done => {
                longer = backoff(PAUSE);
                LOOK
            }
        };
    };
    wakening.end().await;
    admin.abort();
    if let Some(session) = worker.session {
        close(session.connection).await;
    }
    info!(signal, "the worker stops");
    Ok(())
}

/// How an attempt ended.
enum Turn {
    /// The database has decided.
    Done,
    /// It was not reached, or did not do it.
    Failed,
    /// This signal came meanwhile, and the round was rolled back, or is done.
    Stopped(&'static str),
}

/// A session with the database, and what was asked at its start.
struct Session {
    connection: Connection,
    id: SessionId,
    layout: Layout,
}

struct Worker {
    database: Database,
    schedule: Schedule,
    cooldown: TimeDelta,
    round_timeout: Duration,
    metrics: Arc<Metrics>,
    /// Kept from one turn to the next; dropped after any error.
    session: Option<Session>,
    /// What the log said last, so that it says nothing twice.
    said: Option<String>,
}

impl Worker {
    /// Attempts the tick that is due.
    async fn turn(&mut self, stop: &mut StopSignals) -> Turn {
        self.metrics.turned();
        let mut session = if let Some(session) = self.session.take() {
            session
        } else {
            let connected = tokio::select! {
                connected = self.connect() => connected,
                signal = stop.next() => return Turn::Stopped(signal),
            };
            match connected {
                Ok(session) => session,
                Err(error) => {
                    self.failed(&error);
                    return Turn::Failed;
                }
            }
        };
        let (outcome, signal) = self.attempt(&mut session, stop).await;
        let turn = match outcome {
            Ok(outcome) => {
                self.session = Some(session);
                self.succeeded(outcome);
                Turn::Done
            }
            Err(_) if signal.is_some() => {
                info!("the running attempt is given up");
                Turn::Failed
            }
            Err(error) => {
                self.failed(&error);
                Turn::Failed
            }
        };
        signal.map_or(turn, Turn::Stopped)
    }

    /// Attempts the tick; a signal meanwhile cancels the statement that runs, and the attempt ends with an error if that
    /// was in time.
    async fn attempt(
        &self,
        session: &mut Session,
        stop: &mut StopSignals,
    ) -> (Result<Outcome, Error>, Option<&'static str>) {
        let latest_tick = |at| self.schedule.latest_tick(at);
        let attempt = rounds::run_due(
            &mut session.connection,
            session.layout,
            latest_tick,
            self.cooldown,
            self.round_timeout,
        );
        pin!(attempt);
        let mut alive = interval(LOOK);
        loop {
            tokio::select! {
                outcome = &mut attempt => return (outcome, None),
                _ = alive.tick() => self.metrics.turned(),
                signal = stop.next() => {
                    if let Err(error) = self.database.cancel(session.id, CANCEL).await {
                        debug!(%error, "the round could not be cancelled; the server rolls it back when we are gone");
                    }
                    let outcome = timeout(CANCEL, &mut attempt)
                        .await
                        .unwrap_or(Err(Error::Deadline(CANCEL)));
                    return (outcome, Some(signal));
                }
            }
        }
    }

    async fn connect(&self) -> Result<Session, Error> {
        let mut connection = self.database.connect(CONNECT).await?;
        with_deadline(CONNECT, async {
            let id = session_id(&mut connection).await?;
            let layout = users::layout(&mut connection).await?;
            Ok(Session {
                connection,
                id,
                layout,
            })
        })
        .await
    }

    fn succeeded(&mut self, outcome: Outcome) {
        self.metrics.succeeded(&outcome);
        match outcome {
            Outcome::Done(round) => {
                self.said = None;
                info!(
                    tick_at = %round.tick_at,
                    users = round.users_updated,
                    milliseconds = (round.finished_at - round.started_at).num_milliseconds(),
                    "round done"
                );
            }
            // After most ticks but one of the looks finds nothing to do.
            Outcome::NotDue(_) => {
                if self.said.take().is_some() {
                    info!("no tick is due: it has been done");
                }
            }
            Outcome::Busy => self.say(Level::INFO, "another worker is at the round".to_owned()),
            Outcome::CoolingDown => {
                self.say(
                    Level::INFO,
                    "the last round's cooldown is on, or somebody still reads what it replaced"
                        .to_owned(),
                );
            }
        }
    }

    fn failed(&mut self, error: &Error) {
        self.metrics.failed();
        let level = if error.is_transient() {
            Level::WARN
        } else {
            Level::ERROR
        };
        self.say(level, format!("no round, will try again: {error}"));
    }

    /// Logs what is not the same as last time.
    fn say(&mut self, level: Level, sentence: String) {
        if self.said.as_ref() == Some(&sentence) {
            debug!("still: {sentence}");
            return;
        }
        match level {
            Level::ERROR => error!("{sentence}"),
            Level::WARN => warn!("{sentence}"),
            _ => info!("{sentence}"),
        }
        self.said = Some(sentence);
    }
}
