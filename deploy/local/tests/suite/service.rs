//! Workers, replicas and clients over one database, with a proxy to each of its servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{
    Checker, Client, NetworkFault, Program, Proxy, TestDatabase, eventually, url_through,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The launcher, which has the worker and the api as subcommands.
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_max-two");
pub(crate) const EVERY_SECOND: &str = "* * * * * *";
/// How long replicas may take to answer again. The promise is 3 s. A machine that runs other tests
/// at the same time gets more.
const MAX_OUTAGE: Duration = Duration::from_secs(15);
/// The delay of a client between an answer and its next request.
const CLIENT_DELAY: Duration = Duration::from_millis(5);
/// How many answers a client must get, to show that a fault of others does not reach it.
const ANSWERS_DURING_FAULT: usize = 20;

/// Starts a worker with a tick every second.
pub(crate) fn worker(url: &str, environment: &[(&str, &str)]) -> Program {
    let settings = [
        ("SCHEDULE", EVERY_SECOND),
        ("COOLDOWN", "0s"),
        ("ROUND_TIMEOUT", "20s"),
    ];
    start("worker", url, &[&settings, environment].concat())
}

/// Starts a replica. A busy machine may take longer for an answer than the default allows.
pub(crate) fn replica(url: &str) -> Program {
    let settings = [
        ("LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        ("REQUEST_TIMEOUT", "5s"),
    ];
    start("api", url, &settings)
}

fn start(subcommand: &str, url: &str, settings: &[(&str, &str)]) -> Program {
    let common = [("DATABASE_URL", url), ("ADMIN_LISTEN", "127.0.0.1:0")];
    let environment = common.iter().chain(settings).copied();
    Program::start(EXECUTABLE, &[subcommand], environment)
}

pub(crate) async fn wait_for_next_round(database: &TestDatabase) {
    let before: i64 = database.value("select count(*) from rounds").await;
    eventually("the next round is done", async || {
        database.value::<i64>("select count(*) from rounds").await > before
    })
    .await;
}

/// A worker's or a replica's process.
pub(crate) struct Process {
    start: fn(&str) -> Program,
    url: String,
    /// Its connections to the servers run through these.
    proxies: Vec<Proxy>,
    pub(crate) program: Program,
}

impl Process {
    async fn new(start: fn(&str) -> Program, url: &str, ports: &[u16]) -> Self {
        let mut proxies = Vec::new();
        for &port in ports {
            proxies.push(Proxy::new(port).await);
        }
        let url = url_through(url, &proxies);
        Self {
            program: start(&url),
            start,
            url,
            proxies,
        }
    }

    /// Kills the process, and starts another in its place.
    async fn replace(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait().await;
        self.program = (self.start)(&self.url);
    }

    pub(crate) fn set_network_fault(&self, fault: NetworkFault) {
        for proxy in &self.proxies {
            proxy.set_fault(fault);
        }
    }
}

/// The workers and the replicas of one database.
pub(crate) struct Service {
    pub(crate) workers: Vec<Process>,
    pub(crate) replicas: Vec<Process>,
    /// Each replica's client, replaced with the replica.
    clients: Vec<watch::Sender<Client>>,
}

impl Service {
    /// Starts the processes. Their URLs name these servers of the database in turn. Returns when
    /// every replica is connected.
    pub(crate) async fn start(
        database: &TestDatabase,
        servers: &[u16],
        workers: usize,
        replicas: usize,
    ) -> Self {
        let mut service = Self {
            workers: Vec::new(),
            replicas: Vec::new(),
            clients: Vec::new(),
        };
        for _ in 0..workers {
            let process = Process::new(|url| worker(url, &[]), &database.worker, servers).await;
            service.workers.push(process);
        }
        for _ in 0..replicas {
            let mut process = Process::new(replica, &database.api, servers).await;
            process.program.wait_for_event("database_connected").await;
            let client = Client::new(process.program.address("listen").await);
            service.clients.push(watch::Sender::new(client));
            service.replicas.push(process);
        }
        service
    }

    pub(crate) fn client(&self, replica: usize) -> Client {
        self.clients[replica].borrow().clone()
    }

    pub(crate) async fn replace_worker(&mut self, number: usize) {
        self.workers[number].replace().await;
    }

    pub(crate) async fn replace_replica(&mut self, number: usize) {
        self.replicas[number].replace().await;
        let address = self.replicas[number].program.address("listen").await;
        self.clients[number].send_replace(Client::new(address));
    }

    /// From now on the server of this place in the URLs is the one on this port.
    pub(crate) fn redirect(&self, server: usize, port: u16) {
        for process in self.workers.iter().chain(&self.replicas) {
            process.proxies[server].redirect_to(port);
        }
    }

    /// Stops all processes with SIGTERM; each must exit with 0.
    pub(crate) async fn stop(&mut self) {
        for process in self.replicas.iter_mut().chain(&mut self.workers) {
            let status = process.program.stop().await;
            assert!(status.success(), "{status}: {}", process.program.output());
        }
    }
}

/// Clients that each query one replica in a loop. Dropping it ends them.
pub(crate) struct Load {
    clients: Vec<Arc<LoadClient>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct LoadClient {
    replica: usize,
    answered: AtomicUsize,
    failed: AtomicUsize,
}

/// How many queries each client has had answered, and how many failed.
pub(crate) type Counts = Vec<(usize, usize)>;

impl Load {
    /// Starts this many clients for each replica. The checker records what they get.
    pub(crate) fn start(service: &Service, checker: &Checker, clients: usize) -> Self {
        let (mut tasks, mut all) = (JoinSet::new(), Vec::new());
        for (replica, address) in service.clients.iter().enumerate() {
            for _ in 0..clients {
                let (checker, address) = (checker.clone(), address.subscribe());
                let client = Arc::new(LoadClient {
                    replica,
                    ..LoadClient::default()
                });
                all.push(Arc::clone(&client));
                tasks.spawn(async move {
                    loop {
                        let replica = address.borrow().clone();
                        let counter = match checker.query(&replica).await {
                            Some(200) => &client.answered,
                            _ => &client.failed,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                        sleep(CLIENT_DELAY).await;
                    }
                });
            }
        }
        Self {
            clients: all,
            _tasks: tasks,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let count = |client: &Arc<LoadClient>| {
            let [answered, failed] =
                [&client.answered, &client.failed].map(|count| count.load(Ordering::Relaxed));
            (answered, failed)
        };
        self.clients.iter().map(count).collect()
    }

    /// Waits until the clients of all replicas but these have got more answers, and asserts that
    /// none of their queries has failed.
    pub(crate) async fn assert_unaffected(
        &self,
        before: &Counts,
        affected: impl Fn(usize) -> bool,
    ) {
        let others = || {
            let counts = before.iter().zip(self.counts());
            let clients = self.clients.iter().zip(counts);
            clients.filter(|(client, _)| !affected(client.replica))
        };
        eventually("the other replicas answer", async || {
            others().all(|(_, (before, now))| now.0 >= before.0 + ANSWERS_DURING_FAULT)
        })
        .await;
        for (client, (before, now)) in others() {
            assert_eq!(
                now.1, before.1,
                "queries of replica {} failed",
                client.replica
            );
        }
    }

    /// Waits until every client is answered again.
    pub(crate) async fn wait_until_answered(&self) {
        let (began, before) = (Instant::now(), self.counts());
        eventually("every replica answers", async || {
            before
                .iter()
                .zip(self.counts())
                .all(|(before, now)| now.0 > before.0)
        })
        .await;
        let outage = began.elapsed();
        println!("{:10}all replicas answered after {outage:.1?}", "");
        assert!(outage < MAX_OUTAGE, "{outage:?}");
    }
}
