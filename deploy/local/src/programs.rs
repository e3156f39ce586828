//! Starts the processes of worker and api, restarts those that die, and stops them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use std::{env, io};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::ParentDeathGuard;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The delay before a process that died is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long a process may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A program to run as a process.
#[derive(Clone)]
pub(crate) struct Program {
    /// Its name in log lines.
    pub(crate) name: String,
    /// The hidden subcommand of the launcher that runs it.
    pub(crate) subcommand: &'static str,
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

/// Processes that are restarted when they die, and stopped together.
pub(crate) struct Processes {
    supervisors: JoinSet<()>,
    stop: CancellationToken,
}

impl Processes {
    /// Starts the programs, and restarts them when they die.
    ///
    /// # Errors
    /// When one can't be started the first time.
    pub(crate) fn start(programs: impl IntoIterator<Item = Program>) -> anyhow::Result<Self> {
        let executable = env::current_exe().context("finding the path of this program")?;
        let stop = CancellationToken::new();
        let mut supervisors = JoinSet::new();
        for program in programs {
            let process = Process::start(&executable, &program)
                .with_context(|| format!("starting {}", program.name))?;
            supervisors.spawn(supervise(
                program,
                process,
                executable.clone(),
                stop.clone(),
            ));
        }
        Ok(Self { supervisors, stop })
    }

    /// Stops all of them, and waits until they have ended.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.supervisors.join_all().await;
    }
}

/// Keeps a program running until `stop` is cancelled.
async fn supervise(
    program: Program,
    mut process: Process,
    executable: PathBuf,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return process.stop(&program.name).await,
            status = process.wait() => {
                warn!(status = status.map(|status| status.to_string()).unwrap_or_default(), "{} died; starting it again", program.name);
            }
        }
        process = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RESTART_DELAY) => {}
            }
            match Process::start(&executable, &program) {
                Ok(process) => break process,
                Err(error) => warn!("{} can't be started: {error}", program.name),
            }
        };
    }
}

struct Process {
    child: Child,
    id: Pid,
    /// None once the process has ended.
    guard: Option<ParentDeathGuard>,
}

impl Process {
    fn start(executable: &PathBuf, program: &Program) -> io::Result<Self> {
        let child = Command::new(executable)
            .arg(program.subcommand)
            // The environment below sets DATABASE_URL, and having both is an error.
            .env_remove("DATABASE_URL_FILE")
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // A Ctrl-C in the terminal must not stop it: the launcher stops all in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
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
        if timeout(STOP_TIMEOUT, self.wait()).await.is_err() {
            warn!("{name} did not stop in {STOP_TIMEOUT:?}; killing it");
            let _ = kill(self.id, Signal::SIGKILL);
            let _ = self.wait().await;
        }
        info!("{name} has stopped");
    }
}
