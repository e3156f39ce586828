//! Two sessions, each held at the one moment at which a wrong order of steps would show. What random
//! faults would meet only by chance.

use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::db::Session;
use shared::domain::last_query::message::{HOLDING_ROW, RELEASING_EARLY, send};
use shared::domain::rounds::{Outcome, run_due};
use shared::domain::users::Layout;
use testkit::{TestDatabase, eventually, sql};
use tokio::task::JoinHandle;

use crate::ROUND_TIMEOUT;

/// Does the round of a schedule with a single tick, in a task of its own.
fn start_round(mut worker: Session) -> JoinHandle<Outcome> {
    tokio::spawn(async move {
        let only_tick = |_| Some(DateTime::UNIX_EPOCH);
        run_due(
            &mut worker,
            Layout::SingleNode,
            only_tick,
            chrono::TimeDelta::zero(),
            ROUND_TIMEOUT,
        )
        .await
        .unwrap()
    })
}

/// Waits until so many sessions of this role meet the condition.
async fn wait_for_sessions(database: &TestDatabase, role: &str, condition: &str, number: i64) {
    let query = format!(
        "select count(*) from pg_stat_activity \
         where datname = current_database() and usename = '{role}' and {condition}"
    );
    eventually(condition, async || {
        database.value::<i64>(&query).await == number
    })
    .await;
}

#[tokio::test]
async fn the_fence_is_read_under_the_lock_and_by_the_clock_of_that_moment() {
    let database = TestDatabase::with_users(10).await;
    let mut other = database.superuser().await;
    sql::run(&mut other, "begin; lock table rounds").await;
    let round = start_round(database.connect(&database.worker).await);
    wait_for_sessions(&database, "max_two_worker", "wait_event = 'relation'", 1).await;
    let holders = "select count(*) from pg_locks join pg_database on pg_database.oid = database \
                   where locktype = 'advisory' and granted and datname = current_database()";
    assert_eq!(database.value::<i64>(holders).await, 1);
    // The other session does the tick meanwhile. Its time is as far ahead of the clock as counts,
    // and further ahead of the begin of the waiting transaction.
    sql::run(
        &mut other,
        "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
         select at, true, at, at, 10 from (select clock_timestamp() + interval '1 minute') as ahead (at); \
         commit",
    )
    .await;
    let outcome = round.await.unwrap();
    assert!(matches!(outcome, Outcome::NotDue { .. }), "{outcome:?}");
}

#[tokio::test]
async fn the_lock_is_held_and_nothing_is_visible_until_all_of_a_round_is_committed() {
    let database = TestDatabase::with_users(10).await;
    // The last step of a commit that can be held, before the transaction's locks are released.
    database
        .run(
            "create function hold() returns trigger language plpgsql set lock_timeout = 0 as \
             'begin perform pg_advisory_xact_lock(1); return null; end'; \
             create constraint trigger hold after insert on rounds \
             deferrable initially deferred for each row execute function hold()",
        )
        .await;
    let mut holder = database.superuser().await;
    sql::run(
        &mut holder,
        "set idle_in_transaction_session_timeout = 0; begin; select pg_advisory_xact_lock(1)",
    )
    .await;
    let round = start_round(database.connect(&database.worker).await);
    wait_for_sessions(&database, "max_two_worker", "wait_event = 'advisory'", 1).await;
    let other = start_round(database.connect(&database.worker).await);
    assert_eq!(other.await.unwrap(), Outcome::Busy);
    let renewed = "select count(*) from users where updated_at > inserted_at";
    assert_eq!(database.value::<i64>(renewed).await, 0);
    sql::run(&mut holder, "commit").await;
    let outcome = round.await.unwrap();
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(database.value::<i64>(renewed).await, 10);
}

#[tokio::test]
async fn the_row_of_the_chain_stays_locked_until_the_users_are_read() {
    for message in [HOLDING_ROW, RELEASING_EARLY] {
        let database = TestDatabase::new().await;
        let mut api = database.replica_session().await;
        let mut other = database.superuser().await;
        sql::run(&mut other, "begin; lock table settings").await;
        let answering = tokio::spawn(async move { send(api.session(), message).await });
        wait_for_sessions(&database, "max_two_api", "wait_event = 'relation'", 1).await;
        let free = "select count(*) from (select from last_query for update skip locked) as free";
        assert_eq!(database.value::<i64>(free).await, 0, "{message}");
        sql::run(&mut other, "commit").await;
        answering.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_standby_but_the_next_query_does_not_wait_for_the_answer() {
    let primary = TestDatabase::with_own_server().await;
    let standby = primary.standby().await;
    let mut first = primary.replica_session().await;
    let mut second = primary.replica_session().await;
    // Each learns of the other, so that both release the row early.
    first.answer().await.unwrap();
    second.answer().await.unwrap();
    first.answer().await.unwrap();
    let answered = second.answer().await.unwrap();
    // Nothing reaches the standby any more.
    let walsender = primary.value("select pid from pg_stat_replication").await;
    let walsender = Pid::from_raw(walsender);
    kill(walsender, Signal::SIGSTOP).unwrap();
    let unanswered =
        [first, second].map(|mut session| tokio::spawn(async move { session.answer().await }));
    wait_for_sessions(&primary, "max_two_api", "wait_event = 'SyncRep'", 2).await;
    let moved: DateTime<Utc> = primary.value("select previous_at from last_query").await;
    assert!(moved > answered.queried_at, "two moves are visible");
    standby.promote().await;
    let next = standby.replica_session().await.answer().await.unwrap();
    assert_eq!(next.previous_at, Some(answered.queried_at));
    for session in unanswered {
        assert!(!session.is_finished(), "{:?}", session.await);
    }
    // Otherwise the server waits for it when it stops.
    kill(walsender, Signal::SIGCONT).unwrap();
}

#[tokio::test]
async fn an_answer_that_could_not_be_made_durable_is_none() {
    let database = TestDatabase::new().await;
    let mut first = database.replica_session().await;
    let mut second = database.replica_session().await;
    second.answer().await.unwrap();
    first.answer().await.unwrap();
    // From here on it releases the row early, and the commit of `settle` comes after it.
    database
        .run("revoke execute on function pg_logical_emit_message(boolean, text, text) from public")
        .await;
    first.answer().await.unwrap_err();
}
