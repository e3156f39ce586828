//! Starts the processes of worker and api, restarts those that die, and stops them.

use std::process::ExitStatus;
use std::time::Duration;
use std::{env, io};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::ParentDeathGuard;
use shared::program::cli::BAD_SETTING;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The delay before a process that died is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a process may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The variables of a process, beside those that it inherits.
pub(crate) type Environment = Vec<(&'static str, String)>;

/// Processes of this program that are restarted when they die, and stopped together.
#[derive(Default)]
pub(crate) struct Processes {
    supervisors: JoinSet<()>,
    stop: CancellationToken,
    /// A process has refused its settings, which no restart changes.
    pub(crate) bad_setting: CancellationToken,
}

impl Processes {
    /// Starts this many processes with a hidden subcommand of this program, and with this database.
    ///
    /// # Errors
    /// When one can't be started.
    pub(crate) fn start(
        &mut self,
        subcommand: &str,
        count: u16,
        database_url: &str,
        environment: &Environment,
    ) -> anyhow::Result<()> {
        let executable = env::current_exe().context("finding the path of this program")?;
        for number in 1..=count {
            let name = format!("{subcommand} {number}");
            let mut command = Command::new(&executable);
            command
                .arg(subcommand)
                .env("DATABASE_URL", database_url)
                // Having both is an error.
                .env_remove("DATABASE_URL_FILE")
                .envs(environment.iter().cloned())
                // A Ctrl-C in the terminal must not stop it: the launcher stops all in order.
                .process_group(0)
                .kill_on_drop(true);
            let process =
                Process::start(&mut command).with_context(|| format!("starting {name}"))?;
            self.supervisors.spawn(supervise(
                name,
                command,
                process,
                self.stop.clone(),
                self.bad_setting.clone(),
            ));
        }
        Ok(())
    }

    /// Stops all of them, and waits until they have ended.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        while self.supervisors.join_next().await.is_some() {}
    }
}

/// Keeps a process running until `stop` is cancelled, or until it has refused its settings.
async fn supervise(
    name: String,
    mut command: Command,
    mut process: Process,
    stop: CancellationToken,
    bad_setting: CancellationToken,
) {
    while let Some(status) = stop.run_until_cancelled(process.wait()).await {
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        if code == Some(BAD_SETTING.into()) {
            return bad_setting.cancel();
        }
        let status = status.map(|status| status.to_string());
        warn!(
            status = status.unwrap_or_default(),
            "{name} died; starting it again"
        );
        process = loop {
            let delay = sleep(RESTART_DELAY);
            if stop.run_until_cancelled(delay).await.is_none() {
                return;
            }
            match Process::start(&mut command) {
                Ok(process) => break process,
                Err(error) => warn!("{name} can't be started: {error}"),
            }
        };
    }
    process.stop(&name).await;
}

struct Process {
    child: Child,
    id: Pid,
    /// None once the process has ended.
    guard: Option<ParentDeathGuard>,
}

impl Process {
    fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let id = child.id().expect("it has not been waited for");
        Ok(Self {
            child,
            id: Pid::from_raw(id.cast_signed()),
            guard: Some(ParentDeathGuard::new(id, "KILL", None)?),
        })
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        status
    }

    async fn stop(mut self, name: &str) {
        // It fails only when the process has already ended.
        let _ = kill(self.id, Signal::SIGTERM);
        if timeout(STOP_TIMEOUT, self.wait()).await.is_ok() {
            info!("{name} has stopped");
        } else {
            // Dropping it kills it.
            warn!("{name} did not stop in {STOP_TIMEOUT:?}; killing it");
        }
    }
}
