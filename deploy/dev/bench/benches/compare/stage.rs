//! The stage of all measurements: a durable Postgres with its users, and the processes that take turns on it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use private_postgres::{Binaries, roles};
use testkit::{Program, TestDatabase, free_address};
use tokio::process::Command;

use crate::contestant::Way;

/// A database, and this program, which is all of the others.
pub(crate) struct Stage {
    pub(crate) database: TestDatabase,
    executable: PathBuf,
    binaries: Binaries,
}

/// Replicas that answer at one address.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) programs: Vec<Program>,
}

impl Running {
    /// Their process ids.
    pub(crate) fn ids(&self) -> impl Iterator<Item = i32> {
        self.programs.iter().map(|program| program.id().as_raw())
    }
}

impl Stage {
    /// A database without users, on a server of its own.
    pub(crate) async fn empty() -> anyhow::Result<Self> {
        Ok(Self {
            database: TestDatabase::with_durable_server().await,
            executable: std::env::current_exe()?,
            binaries: Binaries::find(None)?,
        })
    }

    /// One with so many users, before their first round.
    pub(crate) async fn seeded(users: i64) -> anyhow::Result<Self> {
        let stage = Self::empty().await?;
        stage.seed(users).await?;
        Ok(stage)
    }

    /// One with so many users, and with points.
    pub(crate) async fn open(users: i64) -> anyhow::Result<Self> {
        let stage = Self::seeded(users).await?;
        stage.round(None).await?;
        Ok(stage)
    }

    /// Adds the users 1 to `users`, by the worker, and returns how long that took.
    pub(crate) async fn seed(&self, users: i64) -> anyhow::Result<Duration> {
        let users = users.to_string();
        let url = &self.database.owner;
        self.command(&["worker", "seed", "--users", &users, "--database-url", url])
            .await
    }

    /// A round, by the worker, and how long its process took, from start to end.
    pub(crate) async fn round(&self, minimum: Option<i64>) -> anyhow::Result<Duration> {
        let url = &self.database.worker;
        let mut arguments = vec!["worker", "round", "--database-url", url];
        let minimum = minimum.map(|minimum| minimum.to_string());
        if let Some(minimum) = &minimum {
            arguments.extend(["--min-points", minimum]);
        }
        self.command(&arguments).await
    }

    /// Does rounds until the server has as many WAL files as it keeps, which are written over from now on, as on a server
    /// that has run for a while.
    pub(crate) async fn warm_up(&self) -> anyhow::Result<()> {
        let kept: f64 = self
            .database
            .value("select pg_size_bytes(current_setting('min_wal_size'))::float8")
            .await;
        let until = wal_bytes(&self.database).await + kept;
        while wal_bytes(&self.database).await < until {
            self.round(None).await?;
        }
        self.database.run("checkpoint").await;
        Ok(())
    }

    /// The seconds of a round, by the database's clock: without the worker's start, without the commit.
    pub(crate) async fn round_alone(&self) -> anyhow::Result<f64> {
        self.round(None).await?;
        let last = "select extract(epoch from finished_at - started_at)::float8 \
                    from rounds order by finished_at desc limit 1";
        Ok(self.database.value(last).await)
    }

    /// How many rounds there have been.
    pub(crate) async fn rounds_done(&self) -> f64 {
        let count = "select count(*)::float8 from rounds";
        self.database.value(count).await
    }

    async fn command(&self, arguments: &[&str]) -> anyhow::Result<Duration> {
        let mut command = Command::new(&self.executable);
        time(command.args(arguments).env("RUST_LOG", "warn")).await
    }

    /// Runs a statement as psql does it, and returns how long psql took, from start to end.
    pub(crate) async fn psql(
        &self,
        database: &TestDatabase,
        statement: &str,
    ) -> anyhow::Result<Duration> {
        let mut command = Command::new(self.binaries.program("psql"));
        let url = superuser(database).await;
        time(command.args(["-qXc", statement, &url])).await
    }

    /// The mean milliseconds that a statement takes on one session, one after the other, as pgbench has it.
    pub(crate) async fn pgbench(&self, statement: &str, seconds: u64) -> anyhow::Result<f64> {
        let script = tempfile::NamedTempFile::new()?;
        std::fs::write(&script, statement)?;
        let output = Command::new(self.binaries.program("pgbench"))
            .args(["-n", "-M", "prepared", "-c", "1", "-T"])
            .arg(seconds.to_string())
            .arg("-f")
            .arg(script.path())
            .arg(superuser(&self.database).await)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let latency = text
            .lines()
            .find_map(|line| line.strip_prefix("latency average = ")?.strip_suffix(" ms"))
            .with_context(|| format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(latency.parse()?)
    }

    /// Starts so many replicas of Max Two at one address. Those that are not durable do not wait for the disk.
    pub(crate) async fn replicas(&self, number: usize, durable: bool) -> Running {
        let address = free_address();
        let url = if durable {
            self.database.api.clone()
        } else {
            format!("{}?options[synchronous_commit]=off", self.database.api)
        };
        let mut programs = Vec::new();
        for _ in 0..number {
            let mut program = self.replica(address, &url);
            program.wait_for_event("database_connected").await;
            programs.push(program);
        }
        Running { address, programs }
    }

    /// Starts one replica, which shares its port, and does not wait until it answers.
    pub(crate) fn replica(&self, address: SocketAddr, url: &str) -> Program {
        let environment = [
            ("DATABASE_URL", url),
            ("LISTEN", &address.to_string()),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("DRAIN_DELAY", "0s"),
            ("REUSE_PORT", "true"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        Program::start(&self.executable, &["api"], environment)
    }

    /// Starts a worker with a tick every second and no pauses: it does rounds back to back.
    pub(crate) fn worker(&self) -> Program {
        let environment = [
            ("DATABASE_URL", &*self.database.worker),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("SCHEDULE", "* * * * * *"),
            ("COOLDOWN", "0s"),
        ];
        Program::start(&self.executable, &["worker"], environment)
    }

    /// Starts another way to answer, and waits until it does.
    pub(crate) async fn contestant(&self, way: Way) -> Running {
        let address = free_address();
        let server = self.database.server.lock().await;
        let url = server.url(roles::OWNER, self.database.name());
        drop(server);
        let listen = address.to_string();
        let arguments = ["serve", way.name(), &listen, &url];
        let mut program = Program::start(&self.executable, &arguments, [("", ""); 0]);
        program.wait_for_output("listening").await;
        Running {
            address,
            programs: vec![program],
        }
    }

    /// The process ids of Postgres' sessions and of its own helpers.
    pub(crate) async fn sessions(&self) -> Vec<i32> {
        self.database
            .values("select pid from pg_stat_activity")
            .await
    }
}

/// All bytes of WAL that the database's server ever wrote.
pub(crate) async fn wal_bytes(database: &TestDatabase) -> f64 {
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    database.value(position).await
}

/// The URL that may do everything.
async fn superuser(database: &TestDatabase) -> String {
    let server = database.server.lock().await;
    server.url("postgres", database.name())
}

/// Runs a command that must succeed, and returns how long it took.
async fn time(command: &mut Command) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{}", command.as_std().get_program().display()))?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "{:?}: {}",
        command
            .as_std()
            .get_args()
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}
