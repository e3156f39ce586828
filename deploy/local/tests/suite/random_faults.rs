//! The whole service under random faults and at last a failover, judged by the checker: two
//! workers, four replicas and their clients over a primary with a synchronous standby.
//!
//! The seed decides the faults, their order and their targets. The moment that each one hits
//! depends on the machine. A longer run with other faults:
//!
//! ```sh
//! FAULT_SEED=$RANDOM FAULT_REPEATS=50 cargo test -p local random_faults -- --nocapture
//! ```

use std::env;
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use testkit::{Checker, NetworkFault, TestDatabase};
use tokio::time::sleep;

use crate::service::{Load, Process, wait_for_next_round};

/// The numbers of the workers among the processes.
const WORKERS: Range<usize> = 0..2;
/// The numbers of the replicas.
const REPLICAS: Range<usize> = 2..6;

/// A fault, and the number of the process that it hits.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Kills a process, and later starts another in its place.
    Kill(usize),
    /// Stops a process (`SIGSTOP`), and later continues it.
    Pause(usize),
    /// Breaks a process' connections to the database for a while.
    Network(usize, NetworkFault),
    /// Another session locks the table `users` for a while.
    LockUsers,
    /// Ends the primary at once, and starts it again.
    CrashPrimary,
}

/// Every kind of fault, in random order, on random processes.
fn draw_faults(random: &mut StdRng) -> Vec<Fault> {
    let mut faults = vec![Fault::CrashPrimary, Fault::LockUsers];
    for processes in [WORKERS, REPLICAS] {
        let mut process = || random.random_range(processes.clone());
        faults.push(Fault::Kill(process()));
        faults.push(Fault::Pause(process()));
        faults.push(Fault::Network(process(), NetworkFault::Blackhole));
        faults.push(Fault::Network(process(), NetworkFault::Cut));
    }
    faults.shuffle(random);
    faults
}

impl Fault {
    /// Whether the fault may reach the clients of this replica.
    fn affects(self, replica: usize) -> bool {
        match self {
            Self::Kill(process) | Self::Pause(process) | Self::Network(process, _) => {
                process == replica
            }
            Self::LockUsers => false,
            Self::CrashPrimary => true,
        }
    }
}

/// The service under faults, and its servers.
struct Run {
    primary: TestDatabase,
    standby: TestDatabase,
    processes: Vec<Process>,
    load: Load,
}

impl Run {
    async fn start(checker: &Checker, primary: TestDatabase) -> Self {
        let standby = primary.standby().await;
        let servers = [primary.port().await, standby.port().await];
        let mut processes = Vec::new();
        for _ in WORKERS {
            processes.push(Process::start("worker", &primary.worker_url, &servers).await);
        }
        for _ in REPLICAS {
            processes.push(Process::start("api", &primary.api_url, &servers).await);
        }
        Self {
            primary,
            standby,
            load: Load::start(&processes, checker),
            processes,
        }
    }

    async fn wait_until_recovered(&self) {
        self.load.wait_until_answered().await;
        wait_for_next_round(&self.primary).await;
    }

    /// Injects the fault for this long, and until the clients of replicas that it does not affect
    /// are answered.
    async fn inject(&mut self, fault: Fault, duration: Duration) {
        self.load.reset();
        let mut blocker = None;
        match fault {
            Fault::Kill(process) => self.processes[process].kill().await,
            Fault::Pause(process) => self.processes[process].program.signal(Signal::SIGSTOP),
            Fault::Network(process, fault) => self.processes[process].set_network_fault(fault),
            Fault::LockUsers => blocker = Some(self.primary.begin("lock table users").await),
            Fault::CrashPrimary => self.primary.crash_and_restart().await,
        }
        sleep(duration).await;
        let is_affected = |replica| fault.affects(replica);
        self.load.assert_others_answered(is_affected).await;
        match fault {
            Fault::Kill(process) => self.processes[process].start_again().await,
            Fault::Pause(process) => self.processes[process].program.signal(Signal::SIGCONT),
            Fault::Network(process, _) => {
                self.processes[process].set_network_fault(NetworkFault::None);
            }
            Fault::LockUsers | Fault::CrashPrimary => {}
        }
        drop(blocker);
    }

    /// Ends the primary at once, and promotes the standby later.
    async fn fail_over(&mut self) {
        self.primary.server.lock().await.crash();
        sleep(Duration::from_secs(1)).await;
        self.standby.promote().await;
        std::mem::swap(&mut self.primary, &mut self.standby);
        self.wait_until_recovered().await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_break_no_promise() {
    let seed = setting("FAULT_SEED", 4_000);
    println!("FAULT_SEED={seed}; processes {WORKERS:?} are workers, {REPLICAS:?} replicas");
    let mut random = StdRng::seed_from_u64(seed);
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(1_000).await;
    let checker = Checker::install(&database).await;
    let mut run = Run::start(&checker, database).await;
    run.wait_until_recovered().await;
    let (began, mut faults) = (Instant::now(), 0);
    for _ in 0..setting("FAULT_REPEATS", 1) {
        for fault in draw_faults(&mut random) {
            // Faults that outlast the timeouts that end a session have tests of their own.
            let duration = Duration::from_millis(random.random_range(300..1_500));
            let at = began.elapsed().as_secs_f64();
            println!("{at:>6.1} s  {fault:?} for {duration:?}");
            run.inject(fault, duration).await;
            run.wait_until_recovered().await;
            faults += 1;
        }
    }
    run.fail_over().await;
    drop(run.load);
    for process in &mut run.processes {
        let status = process.program.stop().await;
        assert!(status.success(), "{status}: {}", process.program.output());
    }
    let (rounds, _) = checker.assert_clean(&run.primary).await;
    assert!(rounds > faults);
}
