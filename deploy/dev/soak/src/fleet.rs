//! Workers and replicas as processes, each with a network of its own to the database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::{Checker, Client, Program, Proxy, TestDatabase, free_address};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long a client rests between an answer and its next question.
const REST: Duration = Duration::from_millis(5);

/// One process of the fleet, and its way to the database.
#[derive(Debug)]
pub struct Member {
    executable: PathBuf,
    role: &'static str,
    environment: Vec<(&'static str, String)>,
    /// Its network.
    pub proxy: Proxy,
    /// The process, the last one that was started.
    pub program: Program,
}

impl Member {
    async fn start(
        executable: &Path,
        role: &'static str,
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
            program: Program::start(executable, &[role], environment.clone()),
            executable: executable.to_owned(),
            role,
            environment,
            proxy,
        }
    }

    /// Kills the process, whatever it is at, and starts another in its place.
    pub async fn replace(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait().await;
        self.program = Program::start(&self.executable, &[self.role], self.environment.clone());
    }
}

/// All processes.
#[derive(Debug)]
pub struct Fleet {
    /// The workers.
    pub workers: Vec<Member>,
    /// The replicas.
    pub replicas: Vec<Member>,
    /// Where the replicas listen, also after they were replaced.
    pub addresses: Vec<SocketAddr>,
}

impl Fleet {
    /// Starts so many workers and replicas of `executable`, which has them as its subcommands.
    pub async fn start(
        executable: &Path,
        database: &TestDatabase,
        workers: u16,
        replicas: u16,
        schedule: &str,
    ) -> Self {
        let port = database.server.lock().await.port();
        let mut fleet = Self {
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
            let member = Member::start(executable, "worker", &database.worker, port, &settings);
            fleet.workers.push(member.await);
        }
        for _ in 0..replicas {
            let address = free_address();
            let settings = [
                ("LISTEN", address.to_string()),
                ("DRAIN_DELAY", "0s".to_owned()),
            ];
            let member = Member::start(executable, "api", &database.api, port, &settings);
            fleet.replicas.push(member.await);
            fleet.addresses.push(address);
        }
        for replica in &mut fleet.replicas {
            replica.program.wait_for_event("database_connected").await;
        }
        fleet
    }

    /// All processes.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.workers.iter().chain(&self.replicas)
    }

    /// Ends all processes as an operator does; each must end well.
    pub async fn stop(&mut self) {
        for member in self.replicas.iter_mut().chain(&mut self.workers) {
            let status = member.program.stop().await;
            assert!(status.success(), "{status}: {}", member.program.output());
        }
    }
}

/// Clients who ask one replica after the other, until the set is dropped; the checker sees what they see.
#[must_use]
pub fn load(checker: &Checker, addresses: &[SocketAddr], clients: u16) -> JoinSet<()> {
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
                sleep(REST).await;
            }
        });
    }
    load
}
