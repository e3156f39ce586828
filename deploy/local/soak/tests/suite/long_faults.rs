//! Faults that last a minute, longer than each timeout that ends a session.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shared::db::close;
use testkit::{Checker, Client, TestDatabase, eventually, sql};
use tokio::time::sleep;

use crate::{start_processes, stop_and_check, wait_for_next_round};

/// The duration of the long faults.
const FAULT_DURATION: Duration = Duration::from_mins(1);

/// The delay between two queries during a long fault.
const QUERY_DELAY: Duration = Duration::from_millis(10);

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_worker_that_is_stopped_for_a_minute_commits_nothing_when_it_continues() {
    let database = TestDatabase::with_users(100_000).await;
    let checker = Checker::install(&database).await;
    let mut stopped = start_processes(&database, 1, 0).await;
    wait_for_next_round(&database).await;
    // Hold the worker in its UPDATE until it is stopped.
    let mut blocker = database.superuser().await;
    sql::run(&mut blocker, "begin; select from users limit 1 for update").await;
    let worker_is = async |state| {
        let query = format!(
            "select exists (select from pg_stat_activity where datname = current_database() \
             and usename = 'max_two_worker' and {state})"
        );
        eventually(state, async || database.value(&query).await).await;
    };
    worker_is("wait_event_type = 'Lock'").await;
    stopped.workers[0].program.signal(Signal::SIGSTOP);
    let stopped_at = Instant::now();
    close(blocker).await;
    worker_is("state = 'idle in transaction'").await;
    let others = start_processes(&database, 1, 1).await;
    wait_for_next_round(&database).await;
    let takeover = stopped_at.elapsed();
    println!("the other worker took over after {takeover:.1?}");
    assert!(takeover < Duration::from_secs(15), "{takeover:?}");
    sleep(FAULT_DURATION.saturating_sub(stopped_at.elapsed())).await;
    stopped.workers[0].program.signal(Signal::SIGCONT);
    wait_for_next_round(&database).await;
    stopped.stop().await;
    stop_and_check(others, &checker, &database).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn users_locked_for_a_minute_delay_no_reader_and_the_next_round_follows() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let processes = start_processes(&database, 2, 1).await;
    wait_for_next_round(&database).await;
    let mut blocker = database.superuser().await;
    let lock = "set idle_in_transaction_session_timeout = 0; begin; lock table users";
    sql::run(&mut blocker, lock).await;
    let client = Client::new(processes.addresses()[0]);
    let locked_at = Instant::now();
    while locked_at.elapsed() < FAULT_DURATION {
        assert_eq!(checker.query(&client).await, Some(200));
        sleep(QUERY_DELAY).await;
    }
    close(blocker).await;
    let unlocked_at = Instant::now();
    wait_for_next_round(&database).await;
    let delay = unlocked_at.elapsed();
    println!("the next round was done {delay:.1?} after the end of the lock");
    assert!(delay < Duration::from_secs(5), "{delay:?}");
    stop_and_check(processes, &checker, &database).await;
}
