//! The whole service under faults: workers, replicas and clients over one database, with a checker.
//! Tests that need root, other tools or a minute are ignored: `cargo test -p soak -- --ignored`.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod citus;
mod clock;
mod full_disk;
mod long_faults;
mod pooler;
mod standby;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use soak::{Processes, start_load};
use testkit::{Checker, Client, Program, Report, TEST_TIMEOUT, TestDatabase, eventually};
use tokio::task::JoinSet;

/// The program that has the worker and the api as subcommands.
const EXECUTABLE: &str = env!("CARGO_BIN_EXE_soak");
const EVERY_SECOND: &str = "* * * * * *";
/// How long replicas may take to answer again. The promise is 3 s. A machine that runs other tests
/// at the same time gets more.
const MAX_OUTAGE: Duration = Duration::from_secs(15);

/// A database with a thousand users on a server of its own, and its checker.
async fn database_with_own_server() -> (TestDatabase, Checker) {
    let database = TestDatabase::with_own_server().await;
    database.seed(1_000).await;
    let checker = Checker::install(&database).await;
    (database, checker)
}

async fn start_processes(database: &TestDatabase, workers: u16, replicas: u16) -> Processes {
    Processes::start(
        Path::new(EXECUTABLE),
        database,
        workers,
        replicas,
        EVERY_SECOND,
    )
    .await
}

fn start_worker(url: &str, environment: &[(&str, &str)]) -> Program {
    let common = [
        ("DATABASE_URL", url),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("SCHEDULE", EVERY_SECOND),
        ("COOLDOWN", "0s"),
    ];
    Program::start(
        EXECUTABLE,
        &["worker"],
        common.iter().chain(environment).copied(),
    )
}

fn start_replica(url: &str) -> Program {
    let environment = [
        ("DATABASE_URL", url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
    ];
    Program::start(EXECUTABLE, &["api"], environment)
}

async fn wait_for_next_round(database: &TestDatabase) {
    let before: i64 = database.value("select count(*) from rounds").await;
    eventually("the next round is done", async || {
        database.value::<i64>("select count(*) from rounds").await > before
    })
    .await;
}

/// Waits until the replica answers again.
async fn wait_for_answer(client: &Client, checker: &Checker) {
    let began = Instant::now();
    eventually("it answers", async || {
        checker.query(client).await == Some(200)
    })
    .await;
    let outage = began.elapsed();
    println!("answered again after {outage:.2?}");
    assert!(outage < MAX_OUTAGE, "{outage:?}");
}

/// Stops the processes, and asserts that every promise was kept.
async fn stop_and_check(
    mut processes: Processes,
    checker: &Checker,
    database: &TestDatabase,
) -> Report {
    processes.stop().await;
    let report = checker.report(database).await;
    assert!(report.is_clean(), "{report}");
    report
}

#[tokio::test]
async fn a_short_soak_with_random_faults_breaks_no_promise() {
    let no_environment: [(&str, &str); 0] = [];
    let arguments = ["--ticks", "15", "--users", "1000", "--rest", "2"];
    let mut soak = Program::start(EXECUTABLE, &arguments, no_environment);
    let status = soak.wait().await;
    assert!(status.success(), "{}", soak.output());
    assert!(
        soak.output().contains("every promise was kept"),
        "{}",
        soak.output()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_crashes_of_postgres_under_load_break_no_promise() {
    let (database, checker) = database_with_own_server().await;
    let processes = start_processes(&database, 2, 4).await;
    let load = start_load(&checker, &processes.addresses(), 16);
    let client = Client::new(processes.addresses()[0]);
    wait_for_next_round(&database).await;
    for _ in 0..10 {
        database.crash_and_restart().await;
        wait_for_answer(&client, &checker).await;
        wait_for_next_round(&database).await;
    }
    drop(load);
    stop_and_check(processes, &checker, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_standby_is_promoted_nothing_is_lost_and_no_program_needs_a_restart() {
    let (leader, checker) = database_with_own_server().await;
    let follower = leader.standby().await;
    let mut processes = start_processes(&leader, 2, 4).await;
    let load = start_load(&checker, &processes.addresses(), 16);
    wait_for_next_round(&leader).await;
    leader.server.lock().await.crash();
    let port = follower.server.lock().await.port();
    for process in processes.all() {
        process.proxy.redirect_to(port);
    }
    // Until the promotion they connect to the standby, and must recognise it.
    for process in processes.replicas.iter_mut().chain(&mut processes.workers) {
        process
            .program
            .wait_for_output("the database is a standby")
            .await;
    }
    let client = Client::new(processes.addresses()[0]);
    assert_eq!(checker.query(&client).await, Some(503));
    follower.promote().await;
    wait_for_answer(&client, &checker).await;
    wait_for_next_round(&follower).await;
    drop(load);
    stop_and_check(processes, &checker, &follower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_requests_over_three_replicas_form_one_chain() {
    const CLIENTS: u32 = 100;
    let (database, checker) = database_with_own_server().await;
    let processes = start_processes(&database, 1, 3).await;
    let mut requests = JoinSet::new();
    for number in 0..CLIENTS {
        let checker = checker.clone();
        let client = Client::new(processes.addresses()[number as usize % 3]);
        requests.spawn(async move {
            for _ in 0..100_000 / CLIENTS {
                assert_eq!(checker.query(&client).await, Some(200));
            }
        });
    }
    requests.join_all().await;
    let report = stop_and_check(processes, &checker, &database).await;
    assert_eq!((report.answers, report.error_responses), (100_000, 0));
    assert_eq!(report.lost_first_answers, 0, "{report}");
    assert!(report.rounds > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_does_not_delay_the_others() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let processes = start_processes(&database, 1, 3).await;
    let load = start_load(&checker, &processes.addresses()[..1], 8);
    wait_for_next_round(&database).await;
    processes.replicas[0].program.signal(Signal::SIGSTOP);
    for &address in &processes.addresses()[1..] {
        let client = Client::new(address);
        for _ in 0..500 {
            assert_eq!(checker.query(&client).await, Some(200));
        }
    }
    processes.replicas[0].program.signal(Signal::SIGCONT);
    drop(load);
    stop_and_check(processes, &checker, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_several_replicas_show_the_users_of_their_place_in_the_chain() {
    const ROUNDS: i64 = 200;
    for replicas in [2, 3, 6] {
        println!("{replicas} replicas");
        // Replicas wait for the row while another's commit waits for the disk.
        let database = TestDatabase::with_durable_server().await;
        database.seed(1_000).await;
        let checker = Checker::install(&database).await;
        let processes = start_processes(&database, 0, replicas).await;
        let load = start_load(&checker, &processes.addresses(), 24);
        let mut worker = database.connect(&database.worker).await;
        let minimum: MinPoints = "0".parse().unwrap();
        for _ in 0..ROUNDS {
            rounds::run_now(&mut worker, Layout::SingleNode, minimum, TEST_TIMEOUT)
                .await
                .unwrap();
        }
        drop(load);
        let report = stop_and_check(processes, &checker, &database).await;
        assert_eq!(report.rounds, ROUNDS);
        assert!(report.answers > 1_000, "{report}");
    }
}
