//! Workers that are killed, paused or cut off: each tick is done once and whole all the same.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{NetworkFault, Program, Proxy, TestDatabase, eventually};

use crate::{start, worker};

const YEARLY: (&str, &str) = ("SCHEDULE", "0 0 0 1 1 *");
const EVERY_TWO_SECONDS: (&str, &str) = ("SCHEDULE", "*/2 * * * * *");
const NO_COOLDOWN: (&str, &str) = ("COOLDOWN", "0s");

/// A worker whose way to the database leads through a proxy.
fn behind(proxy: &Proxy, database: &TestDatabase, environment: &[(&str, &str)]) -> Program {
    let url = proxy.url(&database.worker);
    let common = [("DATABASE_URL", &*url), ("ADMIN_LISTEN", "127.0.0.1:0")];
    start(&[], common.iter().chain(environment))
}

async fn proxy(database: &TestDatabase) -> Proxy {
    let port = database.server.lock().await.port();
    Proxy::new(port).await
}

/// Waits until a worker's session is in the given state.
async fn worker_is(database: &TestDatabase, condition: &str) {
    let query = format!(
        "select exists (select from pg_stat_activity \
         where datname = current_database() and application_name = 'max-two-worker' and {condition})"
    );
    eventually(condition, async || database.value(&query).await).await;
}

/// Lets a round begin and stop at its last user, until the returned session ends.
async fn hold_up_rounds(database: &TestDatabase) -> shared::db::Connection {
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("set idle_in_transaction_session_timeout = 0; begin; select from users where id = (select max(id) from users) for share")
        .execute(&mut obstacle)
        .await
        .unwrap();
    obstacle
}

/// What no fault may change: each tick once, and all users of one round.
async fn assert_whole(database: &TestDatabase) {
    let half: i64 = database
        .value("select count(distinct updated_at) - 1 from users")
        .await;
    assert_eq!(half, 0, "users of two rounds");
    let latest: bool = database
        .value("select (select max(updated_at) from users) = (select max(started_at) from rounds)")
        .await;
    assert!(latest, "the users are not of the last round");
}

#[tokio::test]
async fn a_killed_worker_leaves_nothing_half_done_and_the_next_does_the_tick() {
    let database = TestDatabase::with_users(100_000).await;
    database.run("update users set updated_at = now()").await;
    for round in 1..=20_u64 {
        let mut victim = worker(&database, &[], &[YEARLY]);
        // In the middle of the UPDATE, at another moment each time.
        worker_is(&database, "query like 'update users%' and state = 'active'").await;
        tokio::time::sleep(Duration::from_millis(round * 5)).await;
        victim.signal(Signal::SIGKILL);
        let killed_at = Instant::now();
        victim.wait().await;
        let half: i64 = database
            .value("select count(distinct updated_at) - 1 from users")
            .await;
        assert_eq!(half, 0, "a round was half done");
        let mut next = worker(&database, &[], &[YEARLY]);
        eventually("the tick is done", async || {
            database.value("select count(*) = 1 from rounds").await
        })
        .await;
        let late = killed_at.elapsed();
        assert!(late < Duration::from_secs(15), "{late:?}");
        next.wait_for_output("the worker starts").await;
        assert!(next.stop().await.success());
        assert_whole(&database).await;
        database.run("delete from rounds").await;
    }
}

#[tokio::test]
async fn a_paused_worker_cannot_commit_a_stale_round() {
    let database = TestDatabase::with_users(1_000).await;
    let obstacle = hold_up_rounds(&database).await;
    let mut paused = worker(&database, &[], &[YEARLY]);
    worker_is(&database, "wait_event_type = 'Lock'").await;
    paused.signal(Signal::SIGSTOP);
    shared::db::close(obstacle).await;
    // Its UPDATE is done, and it holds the lock and all rows, and says nothing: the server ends that.
    worker_is(&database, "state = 'idle in transaction'").await;
    let mut other = worker(&database, &[], &[YEARLY]);
    other
        .wait_for_output("another worker is at the round")
        .await;
    other.wait_for_output("round done").await;
    paused.signal(Signal::SIGCONT);
    paused.wait_for_output("no round, will try again").await;
    assert!(paused.stop().await.success());
    assert!(other.stop().await.success());
    assert!(
        !paused.output().contains("round done"),
        "{}",
        paused.output()
    );
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        1
    );
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_network_that_goes_silent_does_not_keep_the_lock() {
    for while_idle in [true, false] {
        let database = TestDatabase::with_users(1_000).await;
        let proxy = proxy(&database).await;
        let obstacle = hold_up_rounds(&database).await;
        let mut cut_off = behind(&proxy, &database, &[YEARLY]);
        worker_is(&database, "wait_event_type = 'Lock'").await;
        proxy.set_fault(NetworkFault::Blackhole);
        let silent = Instant::now();
        if while_idle {
            // The UPDATE ends, and nobody hears of it.
            shared::db::close(obstacle).await;
        }
        // Else it goes on, as long as its time-out for locks allows. Either way the lock must come free.
        let lock = "select not exists (select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))";
        eventually("the lock is free", async || database.value(lock).await).await;
        assert!(
            silent.elapsed() < Duration::from_secs(15),
            "{:?}",
            silent.elapsed()
        );
        proxy.set_fault(NetworkFault::None);
        if !while_idle {
            assert!(cut_off.stop().await.success());
            continue;
        }
        let mut other = worker(&database, &[], &[YEARLY]);
        other.wait_for_output("round done").await;
        assert!(other.stop().await.success());
        assert!(cut_off.stop().await.success());
        assert_eq!(
            database.value::<i64>("select count(*) from rounds").await,
            1
        );
        assert_whole(&database).await;
    }
}

#[tokio::test]
async fn a_worker_alone_comes_back_from_a_silent_network() {
    let database = TestDatabase::with_users(1_000).await;
    let proxy = proxy(&database).await;
    let mut alone = behind(&proxy, &database, &[EVERY_TWO_SECONDS, NO_COOLDOWN]);
    alone.wait_for_output("round done").await;
    proxy.set_fault(NetworkFault::Blackhole);
    alone.wait_for_output("did not answer within").await;
    proxy.set_fault(NetworkFault::None);
    let before: i64 = database.value("select count(*) from rounds").await;
    eventually("rounds go on", async || {
        database.value::<i64>("select count(*) from rounds").await > before
    })
    .await;
    assert!(alone.stop().await.success());
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_lost_answer_to_a_commit_is_no_second_round() {
    let database = TestDatabase::with_users(1_000).await;
    let proxy = proxy(&database).await;
    proxy.set_fault(NetworkFault::CutAfterCommit);
    let mut unlucky = behind(&proxy, &database, &[YEARLY]);
    unlucky
        .wait_for_output("no tick is due: it has been done")
        .await;
    assert!(unlucky.stop().await.success());
    assert_eq!(proxy.cuts(), 1);
    assert!(
        !unlucky.output().contains("round done"),
        "{}",
        unlucky.output()
    );
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        1
    );
    assert_whole(&database).await;
}

#[tokio::test]
async fn a_locked_table_delays_a_round_and_is_no_reason_to_end() {
    let database = TestDatabase::with_users(1_000).await;
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("set idle_in_transaction_session_timeout = 0; begin; lock table users")
        .execute(&mut obstacle)
        .await
        .unwrap();
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_output("lock timeout").await;
    shared::db::close(obstacle).await;
    program.wait_for_output("round done").await;
    assert!(program.stop().await.success());
    assert_whole(&database).await;
}
