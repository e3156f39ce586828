//! Workers and replicas as processes, with a proxy to each of the database's servers, and clients
//! that query the replicas.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use testkit::{Checker, Client, NetworkFault, Proxy, TestDatabase, TestProgram};
use testkit::{eventually, url_through};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The launcher, which has the worker and the api as subcommands.
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_max-two");
/// How long replicas may take to answer again. The promise is 3 s. A machine that runs other tests
/// at the same time gets more.
const MAX_OUTAGE: Duration = Duration::from_secs(15);
/// The delay of a client between an answer and its next request.
const CLIENT_DELAY: Duration = Duration::from_millis(5);
/// How many queries a client must send during a fault of others. One may be on its way before.
const QUERIES_DURING_FAULT: usize = 3;

/// Starts a `worker` with a tick every second, or an `api` with a longer request timeout than the
/// default, because the machine may be busy. Each takes the settings that it knows.
pub(crate) fn start_process(
    subcommand: &str,
    url: &str,
    environment: &[(&str, &str)],
) -> TestProgram {
    let common = [
        ("DATABASE_URL", url),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("SCHEDULE", "* * * * * *"),
        ("COOLDOWN", "0s"),
        ("ROUND_TIMEOUT", "20s"),
        ("LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
        ("REQUEST_TIMEOUT", "5s"),
    ];
    let environment = common.iter().chain(environment).copied();
    TestProgram::start(EXECUTABLE, &[subcommand], environment)
}

fn start_at(address: SocketAddr, subcommand: &str, url: &str) -> TestProgram {
    let listen = address.to_string();
    let environment = [("LISTEN", &*listen), ("REUSE_PORT", "true")];
    start_process(subcommand, url, &environment)
}

/// Waits until a replica is connected to its database, and returns a client of it.
pub(crate) async fn connected(replica: &mut TestProgram) -> Client {
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
    subcommand: &'static str,
    url: String,
    /// Where a replica listens, and what keeps the port from all others while it is restarted. A
    /// worker does not use it.
    address: SocketAddr,
    _reservation: Socket,
    /// Its connections to the servers run through these, in the order of the servers in its URL.
    proxies: Vec<Proxy>,
    pub(crate) program: TestProgram,
}

impl Process {
    /// Starts a process, whose URL names the servers on these ports.
    pub(crate) async fn start(subcommand: &'static str, url: &str, servers: &[u16]) -> Self {
        let mut proxies = Vec::new();
        for &port in servers {
            proxies.push(Proxy::new(port).await);
        }
        let reservation = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        reservation.set_reuse_port(true).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        reservation.bind(&any_port.into()).unwrap();
        let address = reservation.local_addr().unwrap().as_socket().unwrap();
        let url = url_through(url, &proxies);
        let mut process = Self {
            program: start_at(address, subcommand, &url),
            subcommand,
            url,
            address,
            _reservation: reservation,
            proxies,
        };
        // Once it logs this, a replica listens. If it can't start, this shows its output.
        process.program.address("admin").await;
        process
    }

    pub(crate) async fn kill(&mut self) {
        self.program.signal(Signal::SIGKILL);
        self.program.wait().await;
    }

    /// Starts a process in place of one that was killed. Clients find a replica again.
    pub(crate) async fn start_again(&mut self) {
        self.program = start_at(self.address, self.subcommand, &self.url);
        self.program.address("admin").await;
    }

    pub(crate) fn set_network_fault(&self, fault: NetworkFault) {
        for proxy in &self.proxies {
            proxy.set_fault(fault);
        }
    }
}

/// Whether each query of a client was answered, since the last reset.
type Results = Arc<Mutex<Vec<bool>>>;

/// Clients that each query one replica in a loop. Dropping it ends them.
pub(crate) struct Load {
    /// Each client's process, and its results.
    clients: Vec<(usize, Results)>,
    _tasks: JoinSet<()>,
}

impl Load {
    /// Starts two clients for each replica. The checker records what they get.
    pub(crate) fn start(processes: &[Process], checker: &Checker) -> Self {
        let (mut clients, mut tasks) = (Vec::new(), JoinSet::new());
        for (process, replica) in (0..).zip(processes).chain((0..).zip(processes)) {
            if replica.subcommand != "api" {
                continue;
            }
            let (checker, client) = (checker.clone(), Client::new(replica.address));
            let results = Results::default();
            clients.push((process, Arc::clone(&results)));
            tasks.spawn(async move {
                loop {
                    let is_answered = checker.query(&client).await == Some(200);
                    results.lock().unwrap().push(is_answered);
                    sleep(CLIENT_DELAY).await;
                }
            });
        }
        Self {
            clients,
            _tasks: tasks,
        }
    }

    /// Forgets all results.
    pub(crate) fn reset(&self) {
        for (_, results) in &self.clients {
            results.lock().unwrap().clear();
        }
    }

    /// Waits until clients of replicas that a fault does not affect are answered, and asserts that
    /// they were each time.
    pub(crate) async fn assert_others_answered(&self, is_affected: impl Fn(usize) -> bool) {
        let others = self
            .clients
            .iter()
            .filter(|(process, _)| !is_affected(*process));
        for (process, results) in others {
            let is_queried = async || results.lock().unwrap().len() >= QUERIES_DURING_FAULT;
            eventually("the others are queried during the fault", is_queried).await;
            let are_answered = !results.lock().unwrap().contains(&false);
            assert!(are_answered, "a query of process {process} failed");
        }
    }

    /// Waits until every client is answered again.
    pub(crate) async fn wait_until_answered(&self) {
        let began = Instant::now();
        self.reset();
        let are_answered = async || {
            let is_answered = |(_, results): &(_, Results)| results.lock().unwrap().contains(&true);
            self.clients.iter().all(is_answered)
        };
        eventually("every client is answered again", are_answered).await;
        let outage = began.elapsed();
        println!("          all replicas answered after {outage:.1?}");
        assert!(outage < MAX_OUTAGE);
    }
}
