//! Connects the replica's one session with the database, with backoff.
//!
//! Probes and metrics learn here whether the database answers. A session that has failed once is
//! never used again: nothing is known of what its last statement did.

use std::sync::Arc;
use std::time::Duration;

use shared::db::{CONNECT_TIMEOUT, Connection, Database, Error, backoff, with_deadline};
use shared::last_query;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::health::Health;
use crate::metrics::Metrics;

/// The longest delay between two attempts to connect, without its jitter.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(200);

/// Connects sessions, and publishes whether there is one.
pub(crate) struct Connector {
    database: Database,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Connector {
    pub(crate) fn new(database: Database, health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self {
            database,
            health,
            metrics,
        }
    }

    /// Connects, and tries again until that succeeds.
    pub(crate) async fn connect_with_backoff(&self) -> Connection {
        let mut last_reason = String::new();
        let mut delays = backoff(MAX_RECONNECT_DELAY);
        loop {
            let error = match self.connect_and_check().await {
                Ok(connection) => {
                    info!(event = "database_connected", "connected to the database");
                    self.health.set_database_connected();
                    self.metrics.set_database_up(true);
                    return connection;
                }
                Err(error) => error,
            };
            // One line per reason, however many attempts meet it.
            let reason = error.to_string();
            if reason != last_reason {
                log_database_error(&error);
                last_reason = reason;
            }
            sleep(delays.next().unwrap_or(MAX_RECONNECT_DELAY)).await;
        }
    }

    /// Connects, and checks that schema and privileges are those that an answer needs.
    async fn connect_and_check(&self) -> Result<Connection, Error> {
        with_deadline(CONNECT_TIMEOUT, async {
            let mut connection = self.database.connect(CONNECT_TIMEOUT).await?;
            last_query::check(&mut connection).await?;
            Ok(connection)
        })
        .await
    }

    /// Publishes that the session was lost.
    pub(crate) fn on_lost(&self, error: &Error) {
        self.metrics.set_database_up(false);
        log_database_error(error);
    }
}

/// Logs why the database can't be used: a warning if that can pass by itself, else an error, on
/// which an operator must act.
fn log_database_error(error: &Error) {
    if error.is_transient() {
        warn!(event = "database_unavailable", %error, "the database does not answer");
    } else {
        error!(event = "database_refused", %error, "the database refuses the session or statement");
    }
}
