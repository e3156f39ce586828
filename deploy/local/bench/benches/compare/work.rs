//! The work that is measured: requests, and new points for all users.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use testkit::{TestDatabase, TestProgram};
use tokio::process::Command;

use crate::Bench;

/// What a round does to the table `users`.
const UPDATE: &str = "update users set points = floor(random() * 101), updated_at = now()";
/// Loads during rounds are longer than others, so that each sees several rounds.
const LONGER: u32 = 3;

/// What a contestant does.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Requests to the servers that a subcommand starts: the subcommand, the number of replicas,
    /// and the number of connections to all of them together.
    Load(&'static str, usize, u32),
    /// Requests to one replica, over this many connections, while a worker runs rounds back to
    /// back.
    LoadDuringRounds(u32),
    Round,
    Update,
    UpdateDefaultTable,
}

impl Work {
    /// Does the work. Returns requests per second and the 99th percentile of the latency in
    /// milliseconds; or, of a round and an `UPDATE`, the seconds and the megabytes of WAL.
    ///
    /// # Errors
    /// When the work fails, or one of its requests.
    pub(crate) async fn measure(self, program: &Path, bench: &Bench) -> anyhow::Result<[f64; 2]> {
        let database = match self {
            Self::UpdateDefaultTable => &bench.default_table,
            _ => &bench.database,
        };
        // No work must pay for the dirty pages of the work before it.
        database.run("checkpoint").await;
        match self {
            Self::Load(subcommand, replicas, connections) => {
                let (address, _servers) =
                    start_servers(program, subcommand, replicas, database).await;
                wrk(address, connections, bench.seconds).await
            }
            Self::LoadDuringRounds(connections) => {
                let (address, _servers) = start_servers(program, "api", 1, database).await;
                let environment = [
                    ("DATABASE_URL", database.worker_url.as_str()),
                    ("ADMIN_LISTEN", "127.0.0.1:0"),
                    ("SCHEDULE", "* * * * * *"),
                    ("COOLDOWN", "0s"),
                ];
                let mut worker = TestProgram::start(program, &["worker"], environment);
                worker.wait_for_event("round_done").await;
                let measured = wrk(address, connections, LONGER * bench.seconds).await?;
                let rounds = worker.count_events("round_done");
                ensure!(rounds > 1, "no round ended in time: give more --seconds");
                worker.stop().await;
                Ok(measured)
            }
            Self::Round | Self::Update | Self::UpdateDefaultTable => {
                // Not measured: the first update after a checkpoint also writes whole pages.
                database.run(UPDATE).await;
                let wal_before = wal_megabytes(database).await;
                // Sessions and processes start and end within the measured time.
                let started = Instant::now();
                match self {
                    Self::Round => round(program, database).await?,
                    _ => database.run(UPDATE).await,
                }
                let seconds = started.elapsed().as_secs_f64();
                Ok([seconds, wal_megabytes(database).await - wal_before])
            }
        }
    }
}

/// Starts servers on one address, and waits until they are connected to the database. Dropping them
/// kills them.
async fn start_servers(
    program: &Path,
    subcommand: &str,
    replicas: usize,
    database: &TestDatabase,
) -> (SocketAddr, Vec<TestProgram>) {
    let mut address: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut servers = Vec::new();
    for _ in 0..replicas {
        let environment = [
            ("DATABASE_URL", database.api_url.clone()),
            ("LISTEN", address.to_string()),
            ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("REUSE_PORT", "true".to_owned()),
        ];
        let mut server = TestProgram::start(program, &[subcommand], environment);
        // That of the first one, where the others listen too.
        address = server.address("listen").await;
        server.wait_for_event("database_connected").await;
        servers.push(server);
    }
    (address, servers)
}

/// Sends requests for some seconds, on each connection as soon as its previous response has
/// arrived. Returns their rate, and the 99th percentile of their latency in milliseconds.
async fn wrk(address: SocketAddr, connections: u32, seconds: u32) -> anyhow::Result<[f64; 2]> {
    let output = Command::new("wrk")
        .arg(format!("--threads={}", connections.min(2)))
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={seconds}s"))
        .args(["--latency", "--timeout=10s"])
        .arg(format!("http://{address}/"))
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let has_failures = text.contains("Socket errors:") || text.contains("Non-2xx");
    ensure!(!has_failures, "requests failed: {text}");
    let value = |name| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name));
        value.map(str::trim).with_context(|| format!("wrk: {text}"))
    };
    let p99: humantime::Duration = value("99%")?.parse()?;
    Ok([
        value("Requests/sec:")?.parse()?,
        p99.div_duration_f64(Duration::from_millis(1)),
    ])
}

/// Runs one round. With its minimum about half of the users qualify, so that every response shows
/// two.
async fn round(program: &Path, database: &TestDatabase) -> anyhow::Result<()> {
    let arguments = ["worker", "round", "--min-points=50"];
    let mut worker = TestProgram::start(
        program,
        &arguments,
        [("DATABASE_URL", &database.worker_url)],
    );
    let status = worker.wait().await;
    ensure!(status.success(), "the round failed: {}", worker.output());
    Ok(())
}

/// The WAL that the server has written since it was created.
async fn wal_megabytes(database: &TestDatabase) -> f64 {
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 / 1e6";
    database.value(position).await
}
