//! The whole service under random faults, judged by the checker: two workers, four replicas and
//! their clients over a primary with a synchronous standby.
//!
//! The seed decides the faults, their order and their targets. The moment that each one hits
//! depends on the machine. A longer run with other faults:
//!
//! ```sh
//! FAULT_SEED=$RANDOM FAULT_DECKS=50 cargo test -p local random_faults -- --nocapture
//! ```

use std::env;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use shared::db::close;
use testkit::{Checker, NetworkFault, TestDatabase, sql};
use tokio::time::sleep;

use crate::service::{Load, Process, Service, wait_for_next_round};

const USERS: i64 = 1_000;
const WORKERS: usize = 2;
const REPLICAS: usize = 4;
const CLIENTS_PER_REPLICA: usize = 2;

/// The process that a fault hits, by its number among those of its kind.
#[derive(Clone, Copy, Debug)]
enum Target {
    Worker(usize),
    Replica(usize),
}

/// A fault, and how long it lasts.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Kills a process and starts another in its place.
    Kill(Target),
    /// Stops a process (`SIGSTOP`) and continues it later.
    Pause(Target, Duration),
    /// Breaks a process' connections to the database for a while.
    Network(Target, NetworkFault, Duration),
    /// Another session locks the table `users` for a while.
    LockUsers(Duration),
    /// Ends the primary at once, and starts it again.
    CrashPrimary,
    /// Ends the primary at once, and promotes the standby later. Then a new standby takes the old
    /// primary's place.
    Promote(Duration),
}

/// Every kind of fault, in random order, on random targets.
fn draw_deck(random: &mut StdRng) -> Vec<Fault> {
    let mut faults = vec![
        Fault::CrashPrimary,
        Fault::Promote(draw_duration(random)),
        Fault::LockUsers(draw_duration(random)),
        // A replica's one message is not cut in two: the server has it whole, or not at all.
        Fault::Network(
            draw_worker(random),
            NetworkFault::CutAfterCommit,
            draw_duration(random),
        ),
    ];
    for draw_target in [draw_worker, draw_replica] {
        faults.push(Fault::Kill(draw_target(random)));
        faults.push(Fault::Pause(draw_target(random), draw_duration(random)));
        for network in [
            NetworkFault::Blackhole,
            NetworkFault::Slow,
            NetworkFault::Cut,
        ] {
            faults.push(Fault::Network(
                draw_target(random),
                network,
                draw_duration(random),
            ));
        }
    }
    faults.shuffle(random);
    faults
}

fn draw_worker(random: &mut StdRng) -> Target {
    Target::Worker(random.random_range(0..WORKERS))
}

fn draw_replica(random: &mut StdRng) -> Target {
    Target::Replica(random.random_range(0..REPLICAS))
}

/// Faults that outlast the timeouts that end a session have tests of their own.
fn draw_duration(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(100..1_500))
}

impl Fault {
    /// Whether the fault reaches the clients of this replica.
    fn affects(self, replica: usize) -> bool {
        match self {
            Self::Kill(target) | Self::Pause(target, _) | Self::Network(target, ..) => {
                matches!(target, Target::Replica(number) if number == replica)
            }
            Self::LockUsers(_) => false,
            Self::CrashPrimary | Self::Promote(_) => true,
        }
    }
}

/// The service under faults, and its servers.
struct Run {
    primary: TestDatabase,
    standby: TestDatabase,
    /// The primary's place in the programs' URLs.
    primary_place: usize,
    service: Service,
    load: Load,
}

impl Run {
    fn process(&self, target: Target) -> &Process {
        match target {
            Target::Worker(number) => &self.service.workers[number],
            Target::Replica(number) => &self.service.replicas[number],
        }
    }

    /// Injects the fault, and returns when it is over.
    async fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(Target::Worker(number)) => self.service.replace_worker(number).await,
            Fault::Kill(Target::Replica(number)) => self.service.replace_replica(number).await,
            Fault::Pause(target, duration) => {
                let program = &self.process(target).program;
                program.signal(Signal::SIGSTOP);
                sleep(duration).await;
                program.signal(Signal::SIGCONT);
            }
            Fault::Network(target, network_fault, duration) => {
                let process = self.process(target);
                process.set_network_fault(network_fault);
                sleep(duration).await;
                process.set_network_fault(NetworkFault::None);
            }
            Fault::LockUsers(duration) => {
                let mut blocker = self.primary.superuser().await;
                let lock = "set idle_in_transaction_session_timeout = 0; begin; lock table users";
                sql::run(&mut blocker, lock).await;
                sleep(duration).await;
                close(blocker).await;
            }
            Fault::CrashPrimary => {
                let mut server = self.primary.server.lock().await;
                server.crash();
                server.start_again().unwrap();
            }
            Fault::Promote(delay) => self.promote(delay).await,
        }
    }

    /// Ends the primary. The programs find the new one by themselves.
    async fn promote(&mut self, delay: Duration) {
        self.primary.server.lock().await.crash();
        sleep(delay).await;
        self.standby.promote().await;
        self.load.wait_until_answered().await;
        wait_for_next_round(&self.standby).await;
        let standby = self.standby.standby().await;
        let port = standby.port().await;
        self.service.redirect(self.primary_place, port);
        self.primary = std::mem::replace(&mut self.standby, standby);
        self.primary_place = 1 - self.primary_place;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = env::var(name);
    value.map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_break_no_promise() {
    let seed = setting("FAULT_SEED", 4_000);
    println!("FAULT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let primary = TestDatabase::with_own_server().await;
    primary.seed(USERS).await;
    let checker = Checker::install(&primary).await;
    let standby = primary.standby().await;
    let ports = [primary.port().await, standby.port().await];
    let service = Service::start(&primary, &ports, WORKERS, REPLICAS).await;
    let load = Load::start(&service, &checker, CLIENTS_PER_REPLICA);
    let mut run = Run {
        primary,
        standby,
        primary_place: 0,
        service,
        load,
    };
    run.load.wait_until_answered().await;
    wait_for_next_round(&run.primary).await;

    let began = Instant::now();
    let mut faults = 0;
    for _ in 0..setting("FAULT_DECKS", 1) {
        for fault in draw_deck(&mut random) {
            println!("{:>6.1} s  {fault:?}", began.elapsed().as_secs_f64());
            let before = run.load.counts();
            run.inject(fault).await;
            run.load
                .assert_unaffected(&before, |replica| fault.affects(replica))
                .await;
            run.load.wait_until_answered().await;
            wait_for_next_round(&run.primary).await;
            faults += 1;
        }
    }
    drop(run.load);
    run.service.stop().await;
    let report = checker.report(&run.primary).await;
    println!("{report}");
    assert!(report.is_clean(), "FAULT_SEED={seed}: {report}");
    assert!(report.rounds > faults, "FAULT_SEED={seed}: {report}");
}
