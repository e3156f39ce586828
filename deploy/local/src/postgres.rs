//! The private Postgres. It starts on a thread of its own, so that the launcher still handles
//! signals: a recovery may take minutes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use private_postgres::{Binaries, Error, Server};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How often to check that it runs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The private Postgres, if one was started.
#[derive(Default)]
pub(crate) struct Postgres {
    /// Ends a start that is going on.
    cancel: CancellationToken,
    /// A start that is going on. It has the server.
    start: Option<JoinHandle<Result<Server, Error>>>,
    server: Option<Server>,
}

impl Postgres {
    /// Starts it on the data in `folder`.
    ///
    /// # Errors
    /// When it can't be started.
    pub(crate) async fn start(
        &mut self,
        folder: PathBuf,
        binaries: Binaries,
    ) -> anyhow::Result<&Server> {
        let cancel = self.cancel.clone();
        self.start_on_thread(move || Server::start(&folder, &binaries, cancel))
            .await
    }

    /// Starts it again whenever it has died. Never returns without an error.
    pub(crate) async fn supervise(&mut self) -> anyhow::Result<()> {
        let mut checks = interval(CHECK_INTERVAL);
        loop {
            checks.tick().await;
            if let Some(mut server) = self.server.take_if(|server| !server.is_running()) {
                error!("Postgres died; starting it again");
                self.start_on_thread(move || {
                    if let Err(error) = server.start_again() {
                        error!("{error}");
                    }
                    Ok(server)
                })
                .await?;
            }
        }
    }

    /// Stops it; a start that is going on is cancelled.
    pub(crate) async fn stop(&mut self) {
        self.cancel.cancel();
        let started = match self.start.take() {
            // A cancelled start has ended its server.
            Some(start) => start.await.ok().and_then(Result::ok),
            None => self.server.take(),
        };
        if let Some(mut server) = started {
            match spawn_blocking(move || server.stop()).await {
                Ok(()) => info!("Postgres has stopped"),
                Err(error) => error!("Postgres did not stop: {error}"),
            }
        }
    }

    /// Runs `start` on a thread of its own. Cancel safe: [`Self::stop`] waits for that thread.
    async fn start_on_thread(
        &mut self,
        start: impl FnOnce() -> Result<Server, Error> + Send + 'static,
    ) -> anyhow::Result<&Server> {
        let outcome = self.start.insert(spawn_blocking(start)).await;
        self.start = None;
        Ok(self.server.insert(outcome.context("starting Postgres")??))
    }
}
