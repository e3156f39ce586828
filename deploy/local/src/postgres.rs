//! The private Postgres: starts it, starts it again when it dies, and stops it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use private_postgres::{Binaries, Error, Server};
use shared::program::logs::LastReason;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};

use crate::launch::POLL_INTERVAL;

/// How often to check that it runs.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The private Postgres, if one was started.
#[derive(Default)]
pub(crate) struct Postgres(Option<Server>);

impl Postgres {
    /// Starts it on the data in `folder`. Cancel safe: what was started is left for [`Self::stop`].
    ///
    /// # Errors
    /// When it can't be started.
    pub(crate) async fn start(
        &mut self,
        folder: PathBuf,
        binaries: Binaries,
    ) -> anyhow::Result<&Server> {
        // This starts no server, so a stop need not wait for the thread: it ends with the process.
        let server = spawn_blocking(move || Server::prepare(&folder, &binaries)).await;
        let server = self.0.insert(server.context("preparing Postgres")??);
        until_ready(server).await?;
        Ok(server)
    }

    /// Starts it again whenever it has died.
    pub(crate) async fn supervise(&mut self) -> Infallible {
        loop {
            sleep(CHECK_INTERVAL).await;
            if let Some(server) = &mut self.0
                && !server.is_running()
            {
                error!("Postgres died; starting it again");
                let mut logged = LastReason::default();
                loop {
                    server.stop();
                    let Err(error) = until_ready(server).await else {
                        break;
                    };
                    if logged.replace(error.to_string()) {
                        error!("{error}");
                    }
                    sleep(CHECK_INTERVAL).await;
                }
            }
        }
    }

    /// Stops it, also while it starts.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut server) = self.0.take() {
            let stopped = spawn_blocking(move || server.stop()).await;
            stopped.expect("stopping a server does not panic");
            info!("Postgres has stopped");
        }
    }
}

/// Waits for as long as a recovery takes.
async fn until_ready(server: &mut Server) -> Result<(), Error> {
    while !server.advance_start()? {
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
