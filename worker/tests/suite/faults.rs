//! Workers that are killed, paused or cut off: each tick's round is still done once and whole.

use std::fs;
use std::slice;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Client, NetworkFault, Proxy, TestDatabase, TestProgram, eventually, url_through};
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::time::sleep;

use crate::{IN_ENDLESS_ROUND, YEARLY, count_rounds, make_rounds_endless, start, worker};

/// Blocks every round's UPDATE at the last user.
const BLOCK_ROUNDS: &str = "select from users where id = (select max(id) from users) for share";

/// Starts a worker that connects to the database through a proxy.
fn worker_behind(
    proxy: &Proxy,
    database: &TestDatabase,
    environment: &[(&str, &str)],
) -> TestProgram {
    let url = url_through(&database.worker_url, slice::from_ref(proxy));
    let common = [("DATABASE_URL", &*url), ("ADMIN_LISTEN", "127.0.0.1:0")];
    start(&[], common.iter().chain(environment))
}

/// After any fault: all users are of one round, the last.
async fn assert_whole(database: &TestDatabase) {
    let are_of_last =
        "select bool_and(updated_at = (select max(started_at) from rounds)) from users";
    assert!(database.value::<bool>(are_of_last).await);
}

#[tokio::test]
async fn a_killed_worker_leaves_nothing_half_done_and_the_next_does_the_tick() {
    let database = TestDatabase::with_users(100_000).await;
    database.run("update users set updated_at = now()").await;
    for round in 1..=20_u64 {
        let blocker = database.begin(BLOCK_ROUNDS).await;
        let mut victim = worker(&database, &[], &[YEARLY]);
        database.wait_for_session("wait_event_type = 'Lock'").await;
        drop(blocker);
        // In the middle of the UPDATE, at a different moment each time.
        sleep(Duration::from_millis(round * 5)).await;
        victim.signal(Signal::SIGKILL);
        let killed_at = Instant::now();
        victim.wait().await;
        let rounds = "select count(distinct updated_at) from users";
        let rounds: i64 = database.value(rounds).await;
        assert_eq!(rounds, 1, "a round was half done");
        let mut next = worker(&database, &[], &[YEARLY]);
        eventually("it is done", async || count_rounds(&database).await == 1).await;
        let delay = killed_at.elapsed();
        assert!(delay < Duration::from_secs(15), "{delay:?}");
        next.wait_for_event("worker_starting").await;
        assert!(next.stop().await.success());
        assert_whole(&database).await;
        database.run("delete from rounds").await;
    }
}

#[tokio::test]
async fn a_paused_worker_cannot_commit_a_stale_round() {
    let database = TestDatabase::with_users(1_000).await;
    let blocker = database.begin(BLOCK_ROUNDS).await;
    let mut paused = worker(&database, &[], &[YEARLY]);
    database.wait_for_session("wait_event_type = 'Lock'").await;
    paused.signal(Signal::SIGSTOP);
    drop(blocker);
    // Its UPDATE is done, and it holds the lock and all rows. The server ends that session.
    database
        .wait_for_session("usename = 'max_two_worker' and state = 'idle in transaction'")
        .await;
    let mut other = worker(&database, &[], &[YEARLY]);
    other.wait_for_event("round_busy").await;
    other.wait_for_event("round_done").await;
    paused.signal(Signal::SIGCONT);
    paused.wait_for_event("round_failed").await;
    assert!(paused.stop().await.success());
    assert!(other.stop().await.success());
    assert_eq!(paused.count_events("round_done"), 0, "{}", paused.output());
    assert_eq!(count_rounds(&database).await, 1);
    assert_whole(&database).await;
}

/// The server ends the statement by itself, because the worker can't.
#[tokio::test]
async fn a_round_command_that_is_paused_does_not_run_for_longer_than_its_timeout() {
    let database = TestDatabase::with_users(10).await;
    make_rounds_endless(&database).await;
    let round = worker(&database, &["round"], &[("ROUND_TIMEOUT", "3s")]);
    database.wait_for_session(IN_ENDLESS_ROUND).await;
    round.signal(Signal::SIGSTOP);
    eventually("the statement has ended", async || {
        !database.has_session(IN_ENDLESS_ROUND).await
    })
    .await;
}

#[tokio::test]
async fn a_network_that_goes_silent_does_not_keep_the_lock_or_the_worker() {
    for while_idle in [true, false] {
        let database = TestDatabase::with_users(1_000).await;
        let proxy = Proxy::new(database.port().await).await;
        let blocker = database.begin(BLOCK_ROUNDS).await;
        let environment = [YEARLY, ("ROUND_TIMEOUT", "10s")];
        let mut cut_off = worker_behind(&proxy, &database, &environment);
        database.wait_for_session("wait_event_type = 'Lock'").await;
        proxy.set_fault(NetworkFault::Blackhole);
        let cut_off_at = Instant::now();
        if while_idle {
            // The UPDATE ends, and its reply is lost. Otherwise it waits until its `lock_timeout`.
            drop(blocker);
        }
        let is_free = "select not exists ( \
                           select from pg_locks join pg_database on pg_database.oid = database \
                           where locktype = 'advisory' and datname = current_database() \
                       )";
        database.wait_until(is_free).await;
        let delay = cut_off_at.elapsed();
        assert!(delay < Duration::from_secs(15), "{delay:?}");
        cut_off.wait_for_output("did not answer within").await;
        proxy.set_fault(NetworkFault::None);
        if while_idle {
            cut_off.wait_for_event("round_done").await;
            assert_whole(&database).await;
        }
        assert!(cut_off.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_a_commit_causes_no_second_round() {
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(1_000).await;
    // A commit that is done here waits for this standby before it replies. A reload would take
    // effect some time later.
    let missing = "set synchronous_standby_names = 'missing'";
    database.configure(missing).await;
    database.crash_and_restart().await;
    let proxy = Proxy::new(database.port().await).await;
    let mut cut_off = worker_behind(&proxy, &database, &[YEARLY]);
    database.wait_for_session("wait_event = 'SyncRep'").await;
    proxy.set_fault(NetworkFault::Cut);
    let reset = "reset synchronous_standby_names";
    database.configure(reset).await;
    proxy.set_fault(NetworkFault::None);
    cut_off.wait_for_event("round_not_due").await;
    assert!(cut_off.stop().await.success());
    assert_eq!(cut_off.count_events("round_done"), 0);
    assert_eq!(count_rounds(&database).await, 1);
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_locked_table_delays_a_round_and_does_not_end_the_worker() {
    let database = TestDatabase::with_users(1_000).await;
    let blocker = database.begin("lock table users").await;
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_output("lock timeout").await;
    let admin = Client::new(program.address("admin").await);
    assert_eq!(admin.get("/livez").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 503);
    drop(blocker);
    program.wait_for_event("round_done").await;
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert!(program.stop().await.success());
    assert_whole(&database).await;
}

#[tokio::test]
#[ignore = "needs root, for a name server of its own"]
async fn a_stop_does_not_wait_for_a_name_server_that_is_silent() {
    const NAME_SERVER: &str = "127.0.0.211";
    let name_server = UdpSocket::bind((NAME_SERVER, 53)).await.unwrap();
    let resolv_conf = concat!(env!("CARGO_TARGET_TMPDIR"), "/resolv.conf");
    let content = format!("nameserver {NAME_SERVER}\noptions timeout:30 attempts:1\n");
    fs::write(resolv_conf, content).unwrap();
    for command in ["run", "migrate"] {
        let mut program = Command::new("unshare");
        program
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"")
            .args([resolv_conf, env!("CARGO_BIN_EXE_max-two-worker"), command])
            .env_remove("DATABASE_URL_FILE")
            .env(
                "DATABASE_URL",
                "postgres://max_two_worker@max-two.invalid/max_two",
            )
            .env("ADMIN_LISTEN", "127.0.0.1:0");
        let mut program = TestProgram::spawn(program);
        let mut question = [0; 512];
        name_server.recv_from(&mut question).await.unwrap();
        let stopped_at = Instant::now();
        program.stop().await;
        // At once. The test allows more, because other tests load the machine.
        let delay = stopped_at.elapsed();
        assert!(delay < Duration::from_secs(8), "{command}: {delay:?}");
    }
}
