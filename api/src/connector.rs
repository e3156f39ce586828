//! Opens the replica's only session with the database, and retries with backoff.
//!
//! It reports to the metrics whether the database is up, and to `/readyz` that it has been up once.
//! It counts as up when a session opens, and as down when one is lost. After two failed messages in
//! a row, only an answer counts as up.
//!
//! A session that has failed is never reused: it is unknown what its last message did.

use std::mem;
use std::time::Duration;

use shared::db::{Backoff, CONNECT_TIMEOUT, Database, Error, with_timeout};
use shared::domain::last_query::ChainSession;
use shared::program::logs::LastReason;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::health::Health;
use crate::metrics::Metrics;
use crate::query;

/// Maximum delay between two attempts to connect, before jitter, unless a retry is costly.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(200);
/// After this many failed messages in a row, an open session no longer shows that the database is
/// up, because the trial of a new session rolls back; only an answer does. A single failure may be
/// a restart of the server.
const FAILED_MESSAGES_WHEN_DOWN: u32 = 2;

/// Why a session was lost.
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// True if a message met the error, false if the check of the idle session did.
    pub(crate) by_message: bool,
}

/// Connects sessions, and publishes whether the database answers.
pub(crate) struct Connector {
    database: Database,
    health: &'static Health,
    metrics: &'static Metrics,
    backoff: Backoff,
    /// The delay before the next attempt to connect.
    delay: Duration,
    /// How many messages in a row have failed. Each has lost its session.
    failed_messages: u32,
    logged: LastReason,
}

impl Connector {
    pub(crate) fn new(
        database: Database,
        health: &'static Health,
        metrics: &'static Metrics,
    ) -> Self {
        Self {
            database,
            health,
            metrics,
            backoff: Backoff::new(MAX_RECONNECT_DELAY),
            delay: Duration::ZERO,
            failed_messages: 0,
            logged: LastReason::default(),
        }
    }

    /// Connects, and tries again until that succeeds.
    pub(crate) async fn connect_with_backoff(&mut self) -> ChainSession {
        loop {
            sleep(mem::take(&mut self.delay)).await;
            match connect_and_prepare(&self.database).await {
                Ok(session) => {
                    if self.failed_messages < FAILED_MESSAGES_WHEN_DOWN {
                        self.publish_up();
                    }
                    return session;
                }
                Err(error) => {
                    self.log_once(&error);
                    self.delay = self.backoff.next_delay(&error);
                }
            }
        }
    }

    /// The session has answered a query.
    pub(crate) fn on_answer(&mut self) {
        if mem::take(&mut self.failed_messages) >= FAILED_MESSAGES_WHEN_DOWN {
            self.publish_up();
        }
    }

    /// The session was lost.
    pub(crate) fn on_lost(&mut self, lost: &Lost) {
        self.metrics.set_database_up(false);
        self.log_once(&lost.error);
        self.failed_messages += u32::from(lost.by_message);
        if self.failed_messages >= FAILED_MESSAGES_WHEN_DOWN {
            self.delay = self.backoff.next_delay(&lost.error);
        }
    }

    /// Publishes that the database answers queries.
    fn publish_up(&mut self) {
        info!(event = "database_connected", "connected to the database");
        self.logged.clear();
        self.backoff.reset();
        self.health.set_connected_once();
        self.metrics.set_database_up(true);
    }

    /// Logs why the database can't be used: as a warning if that can pass by itself, else as an
    /// error, because an operator must act. A reason that repeats is logged once.
    fn log_once(&mut self, error: &Error) {
        if !self.logged.replace(error.to_string()) {
            return;
        }
        if error.is_transient() {
            warn!(event = "database_unavailable", %error, "no usable session with the database");
        } else {
            error!(
                event = "database_refused", %error,
                "the database refuses the session or a query"
            );
        }
    }
}

/// Connects, and prepares the session for every kind of query.
async fn connect_and_prepare(database: &Database) -> Result<ChainSession, Error> {
    let session = database.connect().await?;
    with_timeout(CONNECT_TIMEOUT, query::prepare(session)).await
}
