//! The faults of a soak, injected one at a time.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use testkit::{NetworkFault, TestDatabase, sql};
use tokio::time::sleep;

use crate::{Process, Processes};

/// The process that a fault hits, by its number among those of its kind.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A worker.
    Worker(usize),
    /// A replica.
    Replica(usize),
}

/// A fault, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Kills a process and starts another in its place.
    Kill(Target),
    /// Stops a process (`SIGSTOP`) and continues it later.
    Pause(Target, Duration),
    /// Breaks a process' connection to the database for a while.
    Network(Target, NetworkFault, Duration),
    /// Ends Postgres at once, and starts it again.
    CrashPostgres,
    /// Another session locks the table `users` for a while.
    LockUsers(Duration),
}

impl Fault {
    /// Draws a fault, and the process that it hits.
    pub fn draw(random: &mut StdRng, processes: &Processes) -> Self {
        let target = if random.random_bool(0.7) {
            Target::Worker(random.random_range(0..processes.workers.len()))
        } else {
            Target::Replica(random.random_range(0..processes.replicas.len()))
        };
        // Sometimes longer than the timeouts that end the session of a stopped or cut-off process.
        let duration = Duration::from_millis(random.random_range(200..12_000));
        match random.random_range(0..10) {
            0..3 => Self::Kill(target),
            3..5 => Self::Pause(target, duration),
            5 => Self::Network(target, NetworkFault::Blackhole, duration),
            6 => Self::Network(target, NetworkFault::Slow, duration),
            7 => {
                let network_fault = if random.random() {
                    NetworkFault::Cut
                } else {
                    NetworkFault::CutAfterCommit
                };
                Self::Network(target, network_fault, duration / 4)
            }
            8 => Self::CrashPostgres,
            _ => Self::LockUsers(duration / 2),
        }
    }

    /// Injects the fault, and returns when it is over.
    pub async fn inject(self, processes: &mut Processes, database: &TestDatabase) {
        match self {
            Self::Kill(Target::Worker(number)) => processes.workers[number].replace().await,
            Self::Kill(Target::Replica(number)) => processes.replicas[number].replace().await,
            Self::Pause(target, duration) => {
                let program = &process(processes, target).program;
                program.signal(Signal::SIGSTOP);
                sleep(duration).await;
                program.signal(Signal::SIGCONT);
            }
            Self::Network(target, network_fault, duration) => {
                let proxy = &process(processes, target).proxy;
                proxy.set_fault(network_fault);
                sleep(duration).await;
                proxy.set_fault(NetworkFault::None);
            }
            Self::CrashPostgres => database.crash_and_restart().await,
            Self::LockUsers(duration) => {
                let mut blocker = database.superuser().await;
                let lock = "set idle_in_transaction_session_timeout = 0; set lock_timeout = 0; begin; lock table users";
                sql::run(&mut blocker, lock).await;
                sleep(duration).await;
                shared::db::close(blocker).await;
            }
        }
    }
}

fn process(processes: &Processes, target: Target) -> &Process {
    match target {
        Target::Worker(number) => &processes.workers[number],
        Target::Replica(number) => &processes.replicas[number],
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(number) => write!(formatter, "worker {number}"),
            Self::Replica(number) => write!(formatter, "replica {number}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(formatter, "{target} is killed"),
            Self::Pause(target, duration) => {
                write!(formatter, "{target} is paused for {duration:?}")
            }
            Self::Network(target, network_fault, duration) => {
                write!(
                    formatter,
                    "the network of {target} has the fault {network_fault:?} for {duration:?}"
                )
            }
            Self::CrashPostgres => write!(formatter, "Postgres crashes"),
            Self::LockUsers(duration) => {
                write!(formatter, "the table users is locked for {duration:?}")
            }
        }
    }
}
