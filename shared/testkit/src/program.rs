//! A program under test, as a process that ends with the test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::postgres_variables;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{TEST_TIMEOUT, eventually};

/// A running program. Dropping it kills it. It is in the test's process group, so that a Ctrl-C
/// reaches it too.
#[derive(Debug)]
pub struct TestProgram {
    child: Child,
    id: Pid,
    /// Where it prints. The file has no name any more.
    output: File,
}

impl TestProgram {
    /// Starts `executable`, and keeps everything that it prints. `DATABASE_URL`,
    /// `DATABASE_URL_FILE`, `LOG_FORMAT`, `RUST_LOG` and `PG*` are not inherited.
    pub fn start<Name: AsRef<OsStr>, Text: AsRef<OsStr>>(
        executable: impl AsRef<Path>,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (Name, Text)>,
    ) -> Self {
        let mut command = Command::new(executable.as_ref());
        let ours = "DATABASE_URL DATABASE_URL_FILE LOG_FORMAT RUST_LOG".split(' ');
        for variable in ours.map(OsString::from).chain(postgres_variables()) {
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
        let output = NamedTempFile::new().expect("there is space for a file");
        let stdout = output.reopen().expect("there are free file descriptors");
        let stderr = stdout.try_clone().expect("there are free file descriptors");
        let child = command
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let id = child.id().expect("it has not been waited for");
        Self {
            child,
            id: Pid::from_raw(id.cast_signed()),
            output: output.into_file(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.id
    }

    /// All whole lines that it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        let (mut file, mut bytes) = (&self.output, Vec::new());
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .expect("the file is open for reading");
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// Waits until it has printed `text`.
    pub async fn wait_for_output(&mut self, text: &str) {
        eventually(text, async || {
            let has_ended = self.child.try_wait().expect("it is a child").is_some();
            let output = self.output();
            let is_printed = output.contains(text);
            assert!(
                is_printed || !has_ended,
                "it ended, and never printed {text:?}:\n{output}"
            );
            is_printed
        })
        .await;
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

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> ExitStatus {
        timeout(TEST_TIMEOUT, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it did not end in {TEST_TIMEOUT:?}:\n{}", self.output()))
            .expect("it is a child of this process")
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
