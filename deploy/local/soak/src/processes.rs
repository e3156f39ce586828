//! Workers and replicas as processes, each with its own proxy to the database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{Checker, Client, Program, Proxy, ReservedAddress, TestDatabase};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The delay of a client between an answer and its next request.
const CLIENT_DELAY: Duration = Duration::from_millis(5);

/// A worker's or a replica's process, and its proxy to the database.
#[derive(Debug)]
pub struct Process {
    executable: PathBuf,
    subcommand: &'static str,
    environment: Vec<(&'static str, String)>,
    /// Its connection to the database runs through this.
    pub proxy: Proxy,
    /// The process that was started last.
    pub program: Program,
}

impl Process {
    async fn start(
        executable: &Path,
        subcommand: &'static str,
        url: &str,
        port: u16,
        settings: &[(&'static str, String)],
    ) -> Self {
        let proxy = Proxy::new(port).await;
        let mut environment = vec![
            ("DATABASE_URL", proxy.url(url)),
            ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        environment.extend_from_slice(settings);
        Self {
            program: Program::start(executable, &[subcommand], environment.clone()),
            executable: executable.to_owned(),
            subcommand,
            environment,
            proxy,
        }
    }

    /// Kills the process at once, and starts another in its place.
    pub async fn replace(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait().await;
        self.program = Program::start(
            &self.executable,
            &[self.subcommand],
            self.environment.clone(),
        );
    }
}

/// The workers and the replicas of one database.
#[derive(Debug)]
pub struct Processes {
    /// The workers.
    pub workers: Vec<Process>,
    /// The replicas.
    pub replicas: Vec<Process>,
    /// Where the replicas listen. A replica that is replaced keeps its address, so the addresses
    /// are reserved.
    addresses: Vec<ReservedAddress>,
}

impl Processes {
    /// Starts this many workers and replicas of `executable`, which has the subcommands `worker`
    /// and `api`. Returns when every replica is connected.
    pub async fn start(
        executable: &Path,
        database: &TestDatabase,
        workers: u16,
        replicas: u16,
        schedule: &str,
    ) -> Self {
        let port = database.server.lock().await.port();
        let mut processes = Self {
            workers: Vec::new(),
            replicas: Vec::new(),
            addresses: Vec::new(),
        };
        for _ in 0..workers {
            let settings = [
                ("SCHEDULE", schedule.to_owned()),
                ("COOLDOWN", "0s".to_owned()),
                ("ROUND_TIMEOUT", "20s".to_owned()),
            ];
            let process = Process::start(executable, "worker", &database.worker, port, &settings);
            processes.workers.push(process.await);
        }
        for _ in 0..replicas {
            let address = ReservedAddress::new();
            let settings = [
                ("LISTEN", address.get().to_string()),
                ("REUSE_PORT", "true".to_owned()),
                ("DRAIN_DELAY", "0s".to_owned()),
            ];
            let process = Process::start(executable, "api", &database.api, port, &settings);
            processes.replicas.push(process.await);
            processes.addresses.push(address);
        }
        for replica in &mut processes.replicas {
            replica.program.wait_for_event("database_connected").await;
        }
        processes
    }

    /// The addresses of the replicas.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(ReservedAddress::get).collect()
    }

    /// All processes.
    pub fn all(&self) -> impl Iterator<Item = &Process> {
        self.workers.iter().chain(&self.replicas)
    }

    /// Stops all processes with SIGTERM; each must exit with 0.
    pub async fn stop(&mut self) {
        for process in self.replicas.iter_mut().chain(&mut self.workers) {
            let status = process.program.stop().await;
            assert!(status.success(), "{status}: {}", process.program.output());
        }
    }
}

/// Starts clients that query the replicas at these addresses in rotation, until the returned set
/// is dropped. The checker records what they get.
#[must_use]
pub fn start_load(checker: &Checker, addresses: &[SocketAddr], clients: u16) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for number in 0..clients {
        let checker = checker.clone();
        let replicas: Vec<_> = addresses
            .iter()
            .map(|&address| Client::new(address))
            .collect();
        load.spawn(async move {
            for replica in replicas.iter().cycle().skip(number.into()) {
                checker.query(replica).await;
                sleep(CLIENT_DELAY).await;
            }
        });
    }
    load
}
