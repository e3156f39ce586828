//! Workers and replicas as processes, with a proxy to each of the database's servers, and clients
//! that query the replicas.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::url_through;
use testkit::{Checker, Client, NetworkFault, Program, Proxy, TestDatabase};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The launcher, which has the worker and the api as subcommands.
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_max-two");
/// How long replicas may take to answer again. The promise is 3 s. A machine that runs other tests
/// at the same time gets more.
const MAX_OUTAGE: Duration = Duration::from_secs(15);
/// The delay of a client between an answer and its next request.
const CLIENT_DELAY: Duration = Duration::from_millis(5);
/// How many answers a client must get during a fault of others. One may be on its way before.
const ANSWERS_DURING_FAULT: usize = 3;

/// Starts a worker with a tick every second.
pub(crate) fn worker(url: &str, environment: &[(&str, &str)]) -> Program {
    let common = [
        ("DATABASE_URL", url),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("SCHEDULE", "* * * * * *"),
        ("COOLDOWN", "0s"),
        ("ROUND_TIMEOUT", "20s"),
    ];
    let environment = common.iter().chain(environment).copied();
    Program::start(EXECUTABLE, &["worker"], environment)
}

/// Starts a replica. A busy machine may take longer for an answer than the default allows.
pub(crate) fn replica(url: &str) -> Program {
    let environment = [
        ("DATABASE_URL", url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        ("REQUEST_TIMEOUT", "5s"),
    ];
    Program::start(EXECUTABLE, &["api"], environment)
}

/// Waits until a replica is connected to its database, and returns a client of it.
pub(crate) async fn connected(replica: &mut Program) -> Client {
    replica.wait_for_event("database_connected").await;
    Client::new(replica.address("listen").await)
}

pub(crate) async fn wait_for_next_round(database: &TestDatabase) {
    let before: i64 = database.value("select count(*) from rounds").await;
    let is_done = format!("select count(*) > {before} from rounds");
    database.wait_until(&is_done).await;
}

/// A worker's or a replica's process.
pub(crate) struct Process {
    start: fn(&str) -> Program,
    url: String,
    /// Its connections to the servers run through these, in the order of the servers in its URL.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) program: Program,
    /// A replica's client.
    client: Option<watch::Sender<Client>>,
}

impl Process {
    /// Starts a worker, whose URL names the servers on these ports.
    pub(crate) async fn worker(database: &TestDatabase, servers: &[u16]) -> Self {
        Self::start(|url| worker(url, &[]), &database.worker, servers).await
    }

    /// Starts a replica, whose URL names the servers on these ports.
    pub(crate) async fn replica(database: &TestDatabase, servers: &[u16]) -> Self {
        let mut process = Self::start(replica, &database.api, servers).await;
        let client = connected(&mut process.program).await;
        process.client = Some(watch::Sender::new(client));
        process
    }

    async fn start(start: fn(&str) -> Program, url: &str, servers: &[u16]) -> Self {
        let mut proxies = Vec::new();
        for &port in servers {
            proxies.push(Proxy::new(port).await);
        }
        let url = url_through(url, &proxies);
        Self {
            program: start(&url),
            start,
            url,
            proxies,
            client: None,
        }
    }

    /// Kills the process, and starts another in its place after this delay.
    pub(crate) async fn replace(&mut self, delay: Duration) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait().await;
        sleep(delay).await;
        self.program = (self.start)(&self.url);
        if let Some(client) = &self.client {
            client.send_replace(Client::new(self.program.address("listen").await));
        }
    }

    pub(crate) fn set_network_fault(&self, fault: NetworkFault) {
        for proxy in &self.proxies {
            proxy.set_fault(fault);
        }
    }
}

/// How many queries of a client were answered, and how many failed.
type Counts = [usize; 2];

/// Clients that each query one replica in a loop. Dropping it ends them.
pub(crate) struct Load {
    /// Each client's process, and its counts.
    clients: Vec<(usize, watch::Receiver<Counts>)>,
    _tasks: JoinSet<()>,
}

impl Load {
    /// Starts two clients for each replica. The checker records what they get.
    pub(crate) fn start(processes: &[Process], checker: &Checker) -> Self {
        let (mut clients, mut tasks) = (Vec::new(), JoinSet::new());
        for (process, client) in (0..).zip(processes).chain((0..).zip(processes)) {
            let Some(client) = &client.client else {
                continue;
            };
            let (checker, client) = (checker.clone(), client.subscribe());
            let (counting, counts) = watch::channel([0, 0]);
            clients.push((process, counts));
            tasks.spawn(async move {
                loop {
                    let replica = client.borrow().clone();
                    let has_failed = checker.query(&replica).await != Some(200);
                    counting.send_modify(|counts| counts[usize::from(has_failed)] += 1);
                    sleep(CLIENT_DELAY).await;
                }
            });
        }
        Self {
            clients,
            _tasks: tasks,
        }
    }

    /// The counts of all clients.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        let counts = self.clients.iter().map(|(_, counts)| *counts.borrow());
        counts.collect()
    }

    /// Asserts that clients of replicas that a fault did not affect were answered, each time.
    pub(crate) fn assert_others_answered(
        &self,
        before: &[Counts],
        is_affected: impl Fn(usize) -> bool,
    ) {
        for ((process, counts), [answered, failed]) in self.clients.iter().zip(before) {
            let now = *counts.borrow();
            assert!(
                is_affected(*process)
                    || now[0] >= answered + ANSWERS_DURING_FAULT && now[1] == *failed,
                "process {process}: {answered} and {failed}, then {now:?}"
            );
        }
    }

    /// Waits until every client is answered again.
    pub(crate) async fn wait_until_answered(&self) {
        let (began, before) = (Instant::now(), self.counts());
        let all_answered = async {
            for ((_, counts), before) in self.clients.clone().iter_mut().zip(before) {
                counts.wait_for(|now| now[0] > before[0]).await.unwrap();
            }
        };
        let in_time = timeout(MAX_OUTAGE, all_answered).await;
        in_time.expect("every replica answers again");
        let outage = began.elapsed();
        println!("          all replicas answered after {outage:.1?}");
    }
}
