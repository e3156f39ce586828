//! What can go wrong, one thing at a time.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use testkit::{NetworkFault, TestDatabase};
use tokio::time::sleep;

use crate::Fleet;

/// One process of the fleet, by its number.
#[derive(Clone, Copy, Debug)]
pub enum Whose {
    /// This worker's.
    Worker(usize),
    /// This replica's.
    Replica(usize),
}

/// A fault, and how long it lasts.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process is killed, and replaced.
    Killed(Whose),
    /// A process is stopped, and goes on later as if nothing had been.
    Paused(Whose, Duration),
    /// A process' network turns bad, and good again.
    Network(Whose, NetworkFault, Duration),
    /// Postgres ends at once, and recovers.
    Crash,
    /// Somebody locks the table of users.
    Locked(Duration),
}

impl Fault {
    /// Draws one for a fleet of this size.
    pub fn draw(random: &mut StdRng, workers: usize, replicas: usize) -> Self {
        let whose = if random.random_bool(0.7) {
            Whose::Worker(random.random_range(0..workers))
        } else {
            Whose::Replica(random.random_range(0..replicas))
        };
        // Longer than the time-outs that end what is stopped or cut off, now and then.
        let lasting = Duration::from_millis(random.random_range(200..12_000));
        match random.random_range(0..10) {
            0..3 => Self::Killed(whose),
            3..5 => Self::Paused(whose, lasting),
            5 => Self::Network(whose, NetworkFault::Blackhole, lasting),
            6 => Self::Network(whose, NetworkFault::Slow, lasting),
            7 => {
                let weather = if random.random() {
                    NetworkFault::Cut
                } else {
                    NetworkFault::CutAfterCommit
                };
                Self::Network(whose, weather, lasting / 4)
            }
            8 => Self::Crash,
            _ => Self::Locked(lasting / 2),
        }
    }

    /// Lets it happen, and returns when it is over.
    pub async fn strike(self, fleet: &mut Fleet, database: &TestDatabase) {
        match self {
            Self::Killed(Whose::Worker(number)) => fleet.workers[number].replace().await,
            Self::Killed(Whose::Replica(number)) => fleet.replicas[number].replace().await,
            Self::Paused(whose, lasting) => {
                let program = &member(fleet, whose).program;
                program.signal(Signal::SIGSTOP);
                sleep(lasting).await;
                program.signal(Signal::SIGCONT);
            }
            Self::Network(whose, weather, lasting) => {
                let proxy = &member(fleet, whose).proxy;
                proxy.set_fault(weather);
                sleep(lasting).await;
                proxy.set_fault(NetworkFault::None);
            }
            Self::Crash => {
                let mut server = database.server.lock().await;
                tokio::task::block_in_place(|| {
                    server.crash();
                    server.start_again()
                })
                .unwrap_or_else(|error| panic!("{error}"));
            }
            Self::Locked(lasting) => {
                let mut obstacle = database.superuser().await;
                sqlx::raw_sql("set idle_in_transaction_session_timeout = 0; set lock_timeout = 0; begin; lock table users")
                    .execute(&mut obstacle)
                    .await
                    .unwrap_or_else(|error| panic!("the table could not be locked: {error}"));
                sleep(lasting).await;
                shared::db::close(obstacle).await;
            }
        }
    }
}

fn member(fleet: &Fleet, whose: Whose) -> &crate::Member {
    match whose {
        Whose::Worker(number) => &fleet.workers[number],
        Whose::Replica(number) => &fleet.replicas[number],
    }
}

impl fmt::Display for Whose {
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
            Self::Killed(whose) => write!(formatter, "{whose} is killed"),
            Self::Paused(whose, lasting) => write!(formatter, "{whose} is paused for {lasting:?}"),
            Self::Network(whose, weather, lasting) => {
                write!(
                    formatter,
                    "the network of {whose} is {weather:?} for {lasting:?}"
                )
            }
            Self::Crash => write!(formatter, "Postgres crashes"),
            Self::Locked(lasting) => write!(formatter, "the users are locked for {lasting:?}"),
        }
    }
}
