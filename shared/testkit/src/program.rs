//! A program under test, as a process that ends with the test.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::{ParentDeathGuard, postgres_variables};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{TEST_TIMEOUT, eventually};

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    id: Pid,
    guard: Option<ParentDeathGuard>,
    output: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Program {
    /// Starts `executable`, and keeps everything that it prints. `DATABASE_URL`,
    /// `DATABASE_URL_FILE`, `LOG_FORMAT`, `RUST_LOG` and `PG*` are not inherited.
    pub fn start<Name: AsRef<OsStr>, Text: AsRef<OsStr>>(
        executable: impl AsRef<Path>,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (Name, Text)>,
    ) -> Self {
        let mut command = Command::new(executable.as_ref());
        for variable in [
            "DATABASE_URL",
            "DATABASE_URL_FILE",
            "LOG_FORMAT",
            "RUST_LOG",
        ] {
            command.env_remove(variable);
        }
        for variable in postgres_variables() {
            command.env_remove(variable);
        }
        command
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts the command, and keeps everything that it prints.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let (output, stdout) = std::io::pipe().expect("there are free file descriptors");
        let stderr = stdout.try_clone().expect("there are free file descriptors");
        let child = command
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // It holds our ends of the pipe, so that the reader would never come to its end.
        drop(command);
        let id = child.id().expect("it has not been waited for");
        let pipe = Receiver::from_owned_fd(output.into()).expect("it is a pipe");
        let output = Arc::default();
        Self {
            child,
            id: Pid::from_raw(id.cast_signed()),
            guard: Some(ParentDeathGuard::new(id, "KILL", None).expect("the machine has a shell")),
            reader: tokio::spawn(read(pipe, Arc::clone(&output))),
            output,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.id
    }

    /// Everything that it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        let output = self.output.lock().expect("the reader does not panic");
        output.clone()
    }

    /// Waits until it has printed `text`.
    pub async fn wait_for_output(&mut self, text: &str) {
        let is_printed = async || self.reader.is_finished() || self.output().contains(text);
        eventually(text, is_printed).await;
        let output = self.output();
        assert!(
            output.contains(text),
            "it ended, and never printed {text:?}:\n{output}"
        );
    }

    /// Waits until it has logged this event (the field `event` of a JSON log line).
    pub async fn wait_for_event(&mut self, event: &str) {
        self.wait_for_output(&event_field(event)).await;
    }

    /// How often it has logged this event so far.
    #[must_use]
    pub fn count_events(&self, event: &str) -> usize {
        self.output().matches(&event_field(event)).count()
    }

    /// A field of the first JSON log line that has it; waits for that line.
    pub async fn field(&mut self, name: &str) -> Value {
        self.wait_for_output(&format!("\"{name}\":")).await;
        self.output()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|line| line.get(name).cloned())
            .expect("a line with the field was printed")
    }

    /// The address in the field `name` of its log, for a program that listens on port 0.
    pub async fn address(&mut self, name: &str) -> SocketAddr {
        let field = self.field(name).await;
        let address = field.as_str().expect("an address is logged as a string");
        address.parse().expect("an address is logged as host:port")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.id, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.id));
    }

    /// Waits until it has ended, and until everything that it printed has been read.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = timeout(TEST_TIMEOUT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it did not end in {TEST_TIMEOUT:?}:\n{}", self.output()))
            .expect("it is a child of this process");
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
            (&mut self.reader).await.expect("the reader does not panic");
        }
        status
    }

    /// Sends SIGTERM, and waits until it has ended.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait().await
    }
}

fn event_field(event: &str) -> String {
    format!("\"event\":\"{event}\"")
}

async fn read(pipe: Receiver, output: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut output = output.lock().expect("the reader does not panic");
        output.push_str(&line);
        output.push('\n');
    }
}
