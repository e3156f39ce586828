//! Each tick is done once: the lock and the fence.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use shared::domain::rounds::{FenceReading, Outcome};
use sqlx::raw_sql;
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

use super::{NO_COOLDOWN, insert_round, min_points, run_due, run_only_tick};
use crate::run_round;

#[tokio::test]
async fn a_tick_is_done_once_however_many_race_for_it() {
    let database = TestDatabase::with_users(2_000).await;
    let mut racers = JoinSet::new();
    for _ in 0..8 {
        let mut worker = database.connect(&database.worker).await;
        racers.spawn(async move {
            let mut done = 0;
            for _ in 0..20 {
                match run_only_tick(&mut worker).await {
                    Outcome::Done(_) => done += 1,
                    Outcome::Busy | Outcome::NotDue(FenceReading { fence: Some(_), .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
            done
        });
    }
    assert_eq!(racers.join_all().await.iter().sum::<i32>(), 1);
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        1
    );
}

#[tokio::test]
async fn a_tick_is_not_done_again_and_not_out_of_order() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    let hours_ago =
        |hours| move |now: DateTime<Utc>| Some(now.trunc_subsecs(0) - TimeDelta::hours(hours));
    let done = run_due(&mut worker, hours_ago(1), NO_COOLDOWN).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    // The clock went back, as after a failover to a server whose clock is behind.
    let behind = run_due(&mut worker, hours_ago(2), NO_COOLDOWN).await;
    assert!(
        matches!(behind, Outcome::NotDue(FenceReading { fence: Some(_), .. })),
        "{behind:?}"
    );
}

#[tokio::test]
async fn missed_ticks_are_one_round() {
    let database = TestDatabase::with_users(10).await;
    insert_round(
        &database,
        "now() - interval '10 minutes'",
        "now() - interval '10 minutes' + interval '1 second'",
    )
    .await;
    let mut worker = database.connect(&database.worker).await;
    let every_ten_seconds =
        |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp() / 10 * 10, 0);
    let mut done = 0;
    for _ in 0..3 {
        let outcome = run_due(&mut worker, every_ten_seconds, NO_COOLDOWN).await;
        done += i64::from(matches!(outcome, Outcome::Done(_)));
    }
    let ticks: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(ticks, 1 + done);
    // Two if a tick came between the first call and the last.
    assert!(matches!(done, 1 | 2), "{done}");
}

#[tokio::test]
async fn a_fence_of_a_clock_that_was_ahead_does_not_stop_rounds() {
    let database = TestDatabase::with_users(10).await;
    let ahead = "now() + interval '2 hours'";
    insert_round(&database, ahead, ahead).await;
    let mut worker = database.connect(&database.worker).await;
    let done = run_only_tick(&mut worker).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let again = run_only_tick(&mut worker).await;
    assert!(
        matches!(again, Outcome::NotDue(FenceReading { fence: Some(_), .. })),
        "{again:?}"
    );
    // Otherwise it would stop rounds when the clock comes near it.
    let rounds: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(rounds, 1, "the fence ahead is gone");
}

#[tokio::test]
async fn a_fence_ahead_by_no_more_than_clocks_differ_counts() {
    let database = TestDatabase::with_users(10).await;
    let ahead = "now() + interval '30 seconds'";
    insert_round(&database, ahead, ahead).await;
    let mut worker = database.connect(&database.worker).await;
    let outcome = run_only_tick(&mut worker).await;
    assert!(
        matches!(
            outcome,
            Outcome::NotDue(FenceReading { fence: Some(_), .. })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_tick_stays_done_when_the_clock_went_ahead_during_its_round() {
    let database = TestDatabase::with_users(10).await;
    insert_round(&database, "'epoch'", "now() + interval '2 hours'").await;
    let mut worker = database.connect(&database.worker).await;
    run_round(&mut worker, min_points(0)).await;
    let outcome = run_only_tick(&mut worker).await;
    assert!(
        matches!(
            outcome,
            Outcome::NotDue(FenceReading { fence: Some(_), .. })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn without_a_due_round_the_lock_is_released() {
    let database = TestDatabase::with_users(10).await;
    let mut first = database.connect(&database.worker).await;
    let mut second = database.connect(&database.worker).await;
    assert!(matches!(run_only_tick(&mut first).await, Outcome::Done(_)));
    for _ in 0..3 {
        assert!(matches!(
            run_only_tick(&mut first).await,
            Outcome::NotDue(_)
        ));
        assert!(matches!(
            run_only_tick(&mut second).await,
            Outcome::NotDue(_)
        ));
    }
}

#[tokio::test]
async fn another_advisory_lock_does_not_block_a_round() {
    let database = TestDatabase::with_users(10).await;
    let mut other = database.superuser().await;
    sqlx::query("select pg_advisory_lock(1), pg_advisory_lock(0, 1)")
        .execute(&mut other)
        .await
        .unwrap();
    let mut worker = database.connect(&database.worker).await;
    assert!(matches!(run_only_tick(&mut worker).await, Outcome::Done(_)));
}

#[tokio::test]
async fn an_operators_round_counts_for_no_tick() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    run_round(&mut worker, min_points(0)).await;
    run_round(&mut worker, min_points(0)).await;
    // At first another test on this server may have a snapshot open that is older than the round.
    eventually("the tick's round is done", async || {
        matches!(run_only_tick(&mut worker).await, Outcome::Done(_))
    })
    .await;
    assert_eq!(
        database
            .value::<i64>("select count(*) from rounds where not scheduled")
            .await,
        2
    );
}

#[tokio::test]
async fn an_operators_round_waits_for_a_running_one_outside_a_transaction() {
    let database = TestDatabase::with_users(10).await;
    let mut running = database.superuser().await;
    // The key of the rounds' lock (`shared/src/domain/rounds/statements.rs`).
    raw_sql("begin; select pg_advisory_xact_lock(x'6d61782074776f'::bigint)")
        .execute(&mut running)
        .await
        .unwrap();
    let mut worker = database.connect(&database.worker).await;
    assert_eq!(run_only_tick(&mut worker).await, Outcome::Busy);
    let waiting = tokio::spawn(async move { run_round(&mut worker, min_points(0)).await });
    let has_rolled_back = "select exists ( \
                               select from pg_stat_activity \
                               where datname = current_database() \
                                 and usename = 'max_two_worker' \
                                 and query = 'ROLLBACK' and state = 'idle' \
                           )";
    eventually("it waits outside a transaction", async || {
        database.value(has_rolled_back).await
    })
    .await;
    assert!(!waiting.is_finished());
    raw_sql("rollback").execute(&mut running).await.unwrap();
    assert_eq!(waiting.await.unwrap().users_updated, 10);
}

#[tokio::test]
async fn only_a_week_of_rounds_is_kept() {
    let database = TestDatabase::with_users(10).await;
    database
        .run(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             select at, true, at, at, 10 \
             from generate_series( \
                      now() - interval '9 days', now() - interval '1 day', interval '1 hour' \
                  ) as at",
        )
        .await;
    let mut worker = database.connect(&database.worker).await;
    let done = run_due(&mut worker, |now| Some(now.trunc_subsecs(0)), NO_COOLDOWN).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let (are_recent, kept): (bool, i64) = (
        database
            .value("select min(finished_at) > now() - interval '7 days 1 hour' from rounds")
            .await,
        database.value("select count(*) from rounds").await,
    );
    assert!(are_recent);
    assert!((6 * 24..=6 * 24 + 2).contains(&kept), "{kept}");
}

#[tokio::test]
async fn the_round_that_is_the_fence_is_kept_however_old_it_is() {
    let a_month_ago = "date_trunc('day', now()) - interval '30 days'";
    for ahead in [None, Some("now() + interval '2 hours'")] {
        let database = TestDatabase::with_users(10).await;
        insert_round(&database, a_month_ago, a_month_ago).await;
        if let Some(ahead) = ahead {
            insert_round(&database, ahead, ahead).await;
        }
        let mut worker = database.connect(&database.worker).await;
        run_round(&mut worker, min_points(0)).await;
        let outcome = run_only_tick(&mut worker).await;
        assert!(
            matches!(
                outcome,
                Outcome::NotDue(FenceReading { fence: Some(_), .. })
            ),
            "{ahead:?}: {outcome:?}"
        );
    }
}
