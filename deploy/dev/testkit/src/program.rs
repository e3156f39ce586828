//! A program under test, as a process that ends with its test.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::Leash;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{PATIENCE, eventually};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    id: Pid,
    leash: Option<Leash>,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts `executable`; everything that it prints is kept. Our own settings are as if not set, unless they are
    /// among the variables.
    pub fn start<Name: AsRef<OsStr>, Text: AsRef<OsStr>>(
        executable: impl AsRef<Path>,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (Name, Text)>,
    ) -> Self {
        let mut command = Command::new(executable.as_ref());
        command
            .args(arguments)
            .env_remove("DATABASE_URL")
            .env_remove("DATABASE_URL_FILE")
            .env_remove("LOG_FORMAT")
            .env_remove("RUST_LOG");
        command.envs(environment).stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts what the command says, and keeps everything that it prints.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let id = child.id().expect("it has not been waited for");
        let said = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            tokio::spawn(read(
                child.stdout.take().expect("it is piped"),
                Arc::clone(&said),
            )),
            tokio::spawn(read(
                child.stderr.take().expect("it is piped"),
                Arc::clone(&said),
            )),
        ];
        Self {
            child,
            id: Pid::from_raw(id.cast_signed()),
            leash: Some(Leash::new(id, "KILL", None).expect("there is a shell")),
            said,
            readers,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.id
    }

    /// All that it has printed so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().expect("readers do not panic").clone()
    }

    /// Waits until it has printed `text`.
    pub async fn says(&mut self, text: &str) {
        let said = Arc::clone(&self.said);
        let patient = eventually(text, async || {
            said.lock().expect("readers do not panic").contains(text)
        });
        tokio::select! {
            () = patient => return,
            status = self.child.wait() => drop(status),
        }
        let status = self.ended().await;
        let said = self.said();
        assert!(
            said.contains(text),
            "it ended ({status}) and never said {text:?}:\n{said}"
        );
    }

    /// A field of the first JSON line that has it; waits for that line.
    pub async fn field(&mut self, name: &str) -> Value {
        self.says(&format!("\"{name}\":")).await;
        self.said()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|line| line.get(name).cloned())
            .expect("it was just printed")
    }

    /// An address that it has logged under `name`.
    pub async fn address(&mut self, name: &str) -> SocketAddr {
        let address = self.field(name).await;
        address
            .as_str()
            .expect("a string")
            .parse()
            .expect("an address")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.id, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.id));
    }

    /// Waits until it has ended, and until all that it printed has been read.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it does not end:\n{}", self.said()))
            .expect("it is our child");
        for reader in self.readers.drain(..) {
            reader.await.expect("readers do not panic");
        }
        if let Some(leash) = self.leash.take() {
            leash.dismiss();
        }
        status
    }

    /// Sends SIGTERM, and waits until it has ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

async fn read(pipe: impl AsyncRead + Unpin, said: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().expect("readers do not panic");
        said.push_str(&line);
        said.push('\n');
    }
}
