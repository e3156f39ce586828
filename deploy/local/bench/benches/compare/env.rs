//! The environment of all measurements: a durable Postgres, and the child processes that use it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use private_postgres::Binaries;
use testkit::{Program, TestDatabase, eventually, free_address};
use tokio::process::Command;

use crate::contestant::Contestant;
use crate::startup;

/// A database, and the executables that use it. All servers and workers are this executable.
pub(crate) struct Env {
    pub(crate) database: TestDatabase,
    executable: PathBuf,
    binaries: Binaries,
}

/// Processes that serve one address. Dropping it kills them.
pub(crate) struct Servers {
    pub(crate) address: SocketAddr,
    pub(crate) programs: Vec<Program>,
}

impl Servers {
    pub(crate) fn process_ids(&self) -> impl Iterator<Item = i32> {
        self.programs.iter().map(|program| program.id().as_raw())
    }
}

impl Env {
    /// A database without users, on a server of its own.
    pub(crate) async fn empty() -> anyhow::Result<Self> {
        Ok(Self {
            database: TestDatabase::with_durable_server().await,
            executable: std::env::current_exe()?,
            binaries: Binaries::of_environment()?,
        })
    }

    /// A database before its first round.
    pub(crate) async fn seeded(users: i64) -> anyhow::Result<Self> {
        let env = Self::empty().await?;
        env.seed(users).await?;
        Ok(env)
    }

    /// A database after its first round.
    pub(crate) async fn with_points(users: i64) -> anyhow::Result<Self> {
        let env = Self::seeded(users).await?;
        env.run_round(None).await?;
        Ok(env)
    }

    /// Adds the users 1 to `users`. Returns the duration of the worker's process.
    pub(crate) async fn seed(&self, users: i64) -> anyhow::Result<Duration> {
        let users = users.to_string();
        let url = &self.database.owner;
        self.run_self(&["worker", "seed", "--users", &users, "--database-url", url])
            .await
    }

    /// Runs one round. Returns the duration of the worker's process.
    pub(crate) async fn run_round(&self, minimum: Option<i64>) -> anyhow::Result<Duration> {
        let url = &self.database.worker;
        let mut arguments = vec!["worker", "round", "--database-url", url];
        let minimum = minimum.map(|minimum| minimum.to_string());
        if let Some(minimum) = &minimum {
            arguments.extend(["--min-points", minimum]);
        }
        self.run_self(&arguments).await
    }

    /// Runs rounds until the server has all the WAL files that it keeps. From then on it recycles
    /// them, as a server does that has run for a while.
    pub(crate) async fn warm_up_wal(&self) -> anyhow::Result<()> {
        let kept: f64 = self
            .database
            .value("select pg_size_bytes(current_setting('min_wal_size'))::float8")
            .await;
        let end = wal_bytes(&self.database).await + kept;
        while wal_bytes(&self.database).await < end {
            self.run_round(None).await?;
        }
        self.database.run("checkpoint").await;
        Ok(())
    }

    /// Runs one round. Returns its seconds by the database's clock, which include neither the
    /// start of the worker nor the commit.
    pub(crate) async fn run_round_by_database_clock(&self) -> anyhow::Result<f64> {
        self.run_round(None).await?;
        let seconds = "select extract(epoch from finished_at - started_at)::float8 \
                       from rounds order by finished_at desc limit 1";
        Ok(self.database.value(seconds).await)
    }

    pub(crate) async fn count_rounds(&self) -> f64 {
        let count = "select count(*)::float8 from rounds";
        self.database.value(count).await
    }

    async fn run_self(&self, arguments: &[&str]) -> anyhow::Result<Duration> {
        let mut command = Command::new(&self.executable);
        run_timed(command.args(arguments).env("RUST_LOG", "warn")).await
    }

    /// Runs a statement in psql. Returns the duration of the psql process.
    pub(crate) async fn run_psql(
        &self,
        database: &TestDatabase,
        statement: &str,
    ) -> anyhow::Result<Duration> {
        let mut command = Command::new(self.binaries.program("psql"));
        let url = superuser_url(database).await;
        run_timed(command.args(["-qXc", statement, &url])).await
    }

    /// The mean latency of a statement in milliseconds, in one pgbench session.
    pub(crate) async fn run_pgbench(
        &self,
        statement: &str,
        url: &str,
        seconds: u64,
    ) -> anyhow::Result<f64> {
        let script = tempfile::NamedTempFile::new()?;
        std::fs::write(&script, statement)?;
        let output = Command::new(self.binaries.program("pgbench"))
            .args(["-n", "-M", "prepared", "-c", "1", "-T"])
            .arg(seconds.to_string())
            .arg("-f")
            .arg(script.path())
            .arg(url)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let latency = text
            .lines()
            .find_map(|line| line.strip_prefix("latency average = ")?.strip_suffix(" ms"))
            .with_context(|| format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(latency.parse()?)
    }

    /// Starts a replica of Max Two, and waits until it is connected to the database.
    pub(crate) async fn start_replica(&self) -> Servers {
        self.start_replicas(1, &self.database.api).await
    }

    /// Starts replicas on one address, and waits until they are connected to the database.
    pub(crate) async fn start_replicas(&self, count: usize, url: &str) -> Servers {
        let address = free_address();
        let mut programs = Vec::new();
        for _ in 0..count {
            let mut program = self.spawn_replica(address, url);
            program.wait_for_event("database_connected").await;
            programs.push(program);
        }
        Servers { address, programs }
    }

    /// Starts a replica on this address, and does not wait for it.
    pub(crate) fn spawn_replica(&self, address: SocketAddr, url: &str) -> Program {
        Program::start(
            &self.executable,
            &["api"],
            replica_environment(address, url),
        )
    }

    /// Starts a replica of another `max-two-api`, and waits until it answers.
    pub(crate) async fn start_baseline(&self, executable: &Path) -> Servers {
        let address = free_address();
        let environment = replica_environment(address, &self.database.api);
        let programs = vec![Program::start(executable, &[], environment)];
        // Older ones log no events.
        eventually("the baseline answers", async || {
            startup::responds_with_200(address).await
        })
        .await;
        Servers { address, programs }
    }

    /// Starts a worker that runs rounds back to back: a tick each second, no cooldown.
    pub(crate) fn start_worker(&self) -> Program {
        let environment = [
            ("DATABASE_URL", &*self.database.worker),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("SCHEDULE", "* * * * * *"),
            ("COOLDOWN", "0s"),
        ];
        Program::start(&self.executable, &["worker"], environment)
    }

    /// Starts a contestant, and waits until it accepts connections.
    pub(crate) async fn start_contestant(&self, contestant: Contestant) -> Servers {
        self.start_contestants(contestant, 1, &self.database.owner)
            .await
    }

    /// Starts several processes of a contestant on one address, and waits until they accept
    /// connections.
    pub(crate) async fn start_contestants(
        &self,
        contestant: Contestant,
        count: usize,
        url: &str,
    ) -> Servers {
        let address = free_address();
        let listen = address.to_string();
        let arguments = ["contestant", contestant.argument(), &listen, url];
        let mut programs = Vec::new();
        for _ in 0..count {
            let mut program = Program::start(&self.executable, &arguments, [("", ""); 0]);
            program.wait_for_output("listening").await;
            programs.push(program);
        }
        Servers { address, programs }
    }

    /// The process ids of the sessions and background processes of Postgres.
    pub(crate) async fn postgres_process_ids(&self) -> Vec<i32> {
        self.database
            .values("select pid from pg_stat_activity")
            .await
    }
}

/// The bytes of WAL that the server has written since it was created.
pub(crate) async fn wal_bytes(database: &TestDatabase) -> f64 {
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    database.value(position).await
}

fn replica_environment(address: SocketAddr, url: &str) -> [(&'static str, String); 5] {
    [
        ("DATABASE_URL", url),
        ("LISTEN", &address.to_string()),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        // Several share an address.
        ("REUSE_PORT", "true"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
}

pub(crate) async fn superuser_url(database: &TestDatabase) -> String {
    let server = database.server.lock().await;
    server.url("postgres", database.name())
}

/// Runs a command that must succeed. Returns the duration of its process.
async fn run_timed(command: &mut Command) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{}", command.as_std().get_program().display()))?;
    let duration = started.elapsed();
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
    Ok(duration)
}
