//! Each tick is done once: the lock and the fence.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use shared::domain::rounds::Outcome;
use testkit::{LOCK_ROUNDS, TestDatabase, sql};
use tokio::task::JoinSet;

use super::{NO_COOLDOWN, min_points, run_due, run_only_tick};
use crate::run_round;

#[tokio::test]
async fn a_fence_counts_unless_it_is_more_than_a_minute_ahead_of_the_clock() {
    let two_hours_ahead = "now() + interval '2 hours'";
    let half_a_minute_ahead = "now() + interval '30 seconds'";
    let a_month_ago = "date_trunc('day', now()) - interval '30 days'";
    let at = |time| (time, time);
    for (rounds, is_due) in [
        (vec![], true),
        (vec![at("'epoch'")], false),
        // A later tick: the clock went back, as after a failover to a server whose clock is behind.
        (vec![at("now()")], false),
        (vec![at(half_a_minute_ahead)], false),
        (vec![at(two_hours_ahead)], true),
        // It was ahead for so long that a round was recorded for each minute.
        (vec![at(half_a_minute_ahead), at(two_hours_ahead)], true),
        // The clock went ahead during the round.
        (vec![("'epoch'", two_hours_ahead)], false),
        // It is the fence, however old it is and whatever is ahead.
        (vec![at(a_month_ago)], false),
        (vec![at(a_month_ago), at(two_hours_ahead)], false),
    ] {
        let database = TestDatabase::with_users(10).await;
        for (tick_at, finished_at) in &rounds {
            database.insert_round(tick_at, finished_at).await;
        }
        let mut worker = database.connect(&database.worker_url).await;
        // An operator's round counts for no tick, and deletes no fence.
        run_round(&mut worker, min_points(0)).await;
        let outcome = run_only_tick(&mut worker).await;
        match outcome {
            Outcome::Done(round) => {
                assert!(is_due, "{rounds:?}");
                // Deleted, for it would stop rounds when the clock comes near it.
                let is_ahead = "select count(*) from rounds where finished_at > now()";
                assert_eq!(database.value::<i64>(is_ahead).await, 0);
                let expected = rounds.first().map_or(0, |_| 2 * 60);
                let minutes = round
                    .clock_ahead_by
                    .map_or(0, |ahead| (ahead + TimeDelta::seconds(30)).num_minutes());
                assert_eq!(minutes, expected, "{rounds:?}");
            }
            other => assert!(
                matches!(other, Outcome::NotDue(Some(_))) && !is_due,
                "{rounds:?}: {other:?}"
            ),
        }
        // Without a due round, too, the lock is free again.
        let mut other = database.connect(&database.worker_url).await;
        for worker in [&mut worker, &mut other] {
            let outcome = run_only_tick(worker).await;
            assert!(matches!(outcome, Outcome::NotDue(Some(_))), "{outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_workers_do_each_of_200_ticks_once_beside_a_foreign_advisory_lock() {
    const TICKS: i64 = 200;
    let database = TestDatabase::with_users(100).await;
    let foreign_locks = "select pg_advisory_lock(1), pg_advisory_lock(0, 1)";
    let _other = database.begin(foreign_locks).await;
    let latest = Arc::new(AtomicI64::new(1));
    let mut workers = JoinSet::new();
    for _ in 0..5 {
        let mut worker = database.connect(&database.worker_url).await;
        let latest = Arc::clone(&latest);
        workers.spawn(async move {
            let mut done = 0;
            loop {
                let tick = latest.load(Ordering::SeqCst);
                if tick > TICKS {
                    return done;
                }
                let tick_at = DateTime::from_timestamp(tick, 0);
                if let Outcome::Done(_) = run_due(&mut worker, |_| tick_at, NO_COOLDOWN).await {
                    done += 1;
                    latest.fetch_max(tick + 1, Ordering::SeqCst);
                }
            }
        });
    }
    assert_eq!(workers.join_all().await.iter().sum::<i64>(), TICKS);
    let rounds: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(rounds, TICKS);
}

/// Two workers that both find the tick due must not both do it, and one that was paused for long
/// must not do a tick that another has done meanwhile.
#[tokio::test]
async fn the_fence_is_read_once_the_lock_is_held_and_by_the_clock_at_that_time() {
    let database = TestDatabase::with_users(10).await;
    let mut other = database.begin("lock table rounds").await;
    let mut worker = database.connect(&database.worker_url).await;
    let paused = tokio::spawn(async move { run_only_tick(&mut worker).await });
    let holds_lock = "wait_event = 'relation' and xact_start < clock_timestamp() - interval '0.6 s' \
                      and pid in (select pid from pg_locks where locktype = 'advisory' and granted)";
    database.wait_for_session(holds_lock).await;
    // More than a minute ahead of the paused transaction's start, but not of the clock.
    sql::run(
        &mut other,
        "insert into rounds \
         select at, true, at, at, 10 \
         from (values (clock_timestamp() + interval '59.5 s')) as tick (at); \
         commit",
    )
    .await;
    let outcome = paused.await.unwrap();
    assert!(matches!(outcome, Outcome::NotDue(Some(_))), "{outcome:?}");
}

#[tokio::test]
async fn until_it_is_committed_a_round_holds_the_lock_shows_nothing_and_delays_no_reader() {
    let database = TestDatabase::with_users(100).await;
    let mut worker = database.connect(&database.worker_url).await;
    run_round(&mut worker, min_points(10)).await;
    let mut api = database.replica_session().await;
    let before = api.answer().await.unwrap().users;
    // The round waits in its commit.
    database
        .run(
            "create function wait() returns trigger language plpgsql as \
                 $$ begin perform pg_advisory_xact_lock(1); return null; end $$; \
             create constraint trigger wait after insert on rounds \
                 deferrable initially deferred for each row execute function wait()",
        )
        .await;
    let mut blocker = database.begin("select pg_advisory_xact_lock(1)").await;
    let committing = tokio::spawn(async move { run_round(&mut worker, min_points(100)).await });
    let waits_in_commit = "wait_event = 'advisory' and query = 'COMMIT'";
    database.wait_for_session(waits_in_commit).await;
    let mut other = database.connect(&database.worker_url).await;
    assert_eq!(run_only_tick(&mut other).await, Outcome::Busy);
    let written: i64 = database
        .value(
            "select count(*) from users, settings \
             where updated_at > (select max(started_at) from rounds) or min_points = 100",
        )
        .await;
    assert_eq!(written, 0);
    assert_eq!(api.answer().await.unwrap().users, before);
    sql::run(&mut blocker, "rollback").await;
    committing.await.unwrap();
    let is_whole = "select count(*) = 100 from users, settings \
                    where updated_at = (select max(started_at) from rounds) and min_points = 100";
    assert!(database.value::<bool>(is_whole).await);
    assert_eq!(api.answer().await.unwrap().users, []);
}

#[tokio::test]
async fn an_operators_round_waits_for_a_running_one_outside_a_transaction() {
    let database = TestDatabase::with_users(10).await;
    let mut running = database.begin(LOCK_ROUNDS).await;
    let mut worker = database.connect(&database.worker_url).await;
    assert_eq!(run_only_tick(&mut worker).await, Outcome::Busy);
    let waiting = tokio::spawn(async move { run_round(&mut worker, min_points(0)).await });
    let waits_outside = "query = 'ROLLBACK' and state = 'idle'";
    database.wait_for_session(waits_outside).await;
    assert!(!waiting.is_finished());
    sql::run(&mut running, "rollback").await;
    assert_eq!(waiting.await.unwrap().users_updated, 10);
}

#[tokio::test]
async fn only_a_week_of_rounds_is_kept() {
    let database = TestDatabase::with_users(10).await;
    for days in [9, 8, 7, 6, 1] {
        let ago = format!("now() - interval '{days} days' + interval '1 hour'");
        database.insert_round(&ago, &ago).await;
    }
    let mut worker = database.connect(&database.worker_url).await;
    let this_second = |now: DateTime<Utc>| Some(now.trunc_subsecs(0));
    let done = run_due(&mut worker, this_second, NO_COOLDOWN).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let is_the_last_week = "select min(finished_at) > now() - interval '7 days' and count(*) = 4 \
                            from rounds";
    assert!(database.value::<bool>(is_the_last_week).await);
}
