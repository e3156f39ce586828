//! The processes of worker and api: started, watched, started again when they die, stopped.

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

/// The pause before a process that died is started again.
const RESTART: Duration = Duration::from_secs(1);
/// How long a process may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(20);

/// How to start a process.
#[derive(Clone)]
pub(crate) struct Program {
    /// For people.
    pub(crate) name: String,
    /// The hidden name that makes this program what it is to be.
    pub(crate) role: &'static str,
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

/// Processes that run, and stop together.
pub(crate) struct Fleet {
    watches: JoinSet<()>,
    stop: CancellationToken,
}

impl Fleet {
    /// Starts the programs, and from here on again when they die.
    ///
    /// # Errors
    /// When one can't be started at all.
    pub(crate) fn start(programs: impl IntoIterator<Item = Program>) -> anyhow::Result<Self> {
        let executable = env::current_exe().context("finding this program")?;
        let stop = CancellationToken::new();
        let mut watches = JoinSet::new();
        for program in programs {
            let process = Process::start(&executable, &program)
                .with_context(|| format!("starting {}", program.name))?;
            watches.spawn(watch(program, process, executable.clone(), stop.clone()));
        }
        Ok(Self { watches, stop })
    }

    /// Stops all of them, and waits until they have ended.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.watches.join_all().await;
    }
}

/// Keeps a program running until it is to stop.
async fn watch(
    program: Program,
    mut process: Process,
    executable: PathBuf,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return process.stop(&program.name).await,
            status = process.ended() => {
                warn!(status = status.map(|status| status.to_string()).unwrap_or_default(), "{} died; starting it again", program.name);
            }
        }
        process = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RESTART) => {}
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
    /// Taken off when the process has ended.
    guard: Option<ParentDeathGuard>,
}

impl Process {
    fn start(executable: &PathBuf, program: &Program) -> io::Result<Self> {
        let child = Command::new(executable)
            .arg(program.role)
            // They get a URL; both would be one too many.
            .env_remove("DATABASE_URL_FILE")
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // Away from the terminal's Ctrl-C: they stop in order.
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

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        status
    }

    async fn stop(mut self, name: &str) {
        // It fails when the process has just ended, which is what the signal is for.
        let _ = kill(self.id, Signal::SIGTERM);
        if timeout(STOP, self.ended()).await.is_err() {
            warn!("{name} does not stop, and is killed");
            let _ = kill(self.id, Signal::SIGKILL);
            let _ = self.ended().await;
        }
        info!("{name} has stopped");
    }
}
