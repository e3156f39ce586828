//! The programs under test, of this commit or of another one.

use std::env::current_exe;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use testkit::{Program, TestDatabase};

/// The executables of one commit.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    api: PathBuf,
    worker: PathBuf,
}

/// Processes that serve one address. Dropping it kills them.
pub(crate) struct Servers {
    pub(crate) address: SocketAddr,
    _programs: Vec<Program>,
}

impl Programs {
    /// Those in a folder, which is named by its path or by that of a file in it.
    ///
    /// # Errors
    /// When the folder does not hold both.
    pub(crate) fn find(path: &str) -> Result<Self, String> {
        let mut folder = Path::new(path);
        if folder.is_file() {
            folder = folder.parent().unwrap_or(folder);
        }
        let [api, worker] = ["max-two-api", "max-two-worker"].map(|name| folder.join(name));
        if api.is_file() && worker.is_file() {
            Ok(Self { api, worker })
        } else {
            Err("max-two-api or max-two-worker is missing there".to_owned())
        }
    }

    /// Builds those of this commit, with the profile `release`.
    ///
    /// # Errors
    /// When the build fails.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--package=api", "--package=worker"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .context(env!("CARGO"))?;
        ensure!(status.success(), "the build failed");
        // The profile `bench` shares the folder of `release`. Benchmarks are in its folder `deps`.
        let executable = current_exe()?;
        let folder = executable.ancestors().nth(2).unwrap_or(&executable);
        Self::find(&folder.to_string_lossy())
            .map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))
    }

    /// Starts replicas on one address, and waits until they are connected to the database.
    pub(crate) async fn start_replicas(&self, count: usize, database: &TestDatabase) -> Servers {
        let mut address: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut programs = Vec::new();
        for _ in 0..count {
            let environment = [
                ("DATABASE_URL", database.api.clone()),
                ("LISTEN", address.to_string()),
                ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
                ("REUSE_PORT", "true".to_owned()),
            ];
            let mut program = Program::start(&self.api, &[], environment);
            // That of the first one, where the others listen too.
            address = program.address("listen").await;
            program.wait_for_event("database_connected").await;
            programs.push(program);
        }
        Servers {
            address,
            _programs: programs,
        }
    }

    /// Starts a worker that runs rounds back to back: a tick each second, no cooldown.
    pub(crate) fn start_worker(&self, database: &TestDatabase) -> Program {
        let environment = [
            ("DATABASE_URL", database.worker.as_str()),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("SCHEDULE", "* * * * * *"),
            ("COOLDOWN", "0s"),
        ];
        Program::start(&self.worker, &[], environment)
    }

    /// Runs one round.
    ///
    /// # Errors
    /// When the round fails.
    pub(crate) async fn round(
        &self,
        database: &TestDatabase,
        arguments: &[&str],
    ) -> anyhow::Result<()> {
        let arguments = [&["round"], arguments].concat();
        let environment = [("DATABASE_URL", &database.worker)];
        let mut worker = Program::start(&self.worker, &arguments, environment);
        let status = worker.wait().await;
        ensure!(status.success(), "the round failed: {}", worker.output());
        Ok(())
    }
}

impl Servers {
    /// Starts this executable as one of [`crate::servers`].
    pub(crate) async fn start_self(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut program = Program::start(current_exe()?, arguments, [("", ""); 0]);
        Ok(Self {
            address: program.address("address").await,
            _programs: vec![program],
        })
    }
}
