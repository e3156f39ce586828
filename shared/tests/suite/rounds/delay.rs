//! What delays a due round: a cooldown, or an old snapshot.

use chrono::{DateTime, TimeDelta, Utc};
use shared::domain::rounds::Outcome;
use testkit::{TestDatabase, eventually, sql};

use super::{min_points, run_due};
use crate::run_round;

/// The latest tick of a schedule with one tick a minute.
fn minute(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.timestamp() / 60 * 60, 0)
}

#[tokio::test]
async fn a_round_that_overran_is_followed_by_a_cooldown() {
    // Minutes ago.
    for (began, ended, is_cooling_down) in [
        // Ended in the minute after its own, half an hour ago.
        (31, 30, true),
        // The same, but two hours ago: the cooldown is over.
        (121, 120, false),
        // Ended within its own minute.
        (30, 30, false),
        // Ended by a clock that was ahead.
        (30, -120, false),
    ] {
        let database = TestDatabase::with_users(10).await;
        let minute_at =
            |ago: i32| format!("date_trunc('minute', now()) - interval '{ago} minutes'");
        database
            .insert_round(&minute_at(began), &minute_at(ended))
            .await;
        let mut worker = database.connect(&database.worker_url).await;
        let outcome = run_due(&mut worker, minute, TimeDelta::hours(1)).await;
        assert_eq!(
            outcome == Outcome::CoolingDown,
            is_cooling_down,
            "{began} {ended}: {outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_waits_two_seconds_for_a_snapshot_older_than_the_last_round() {
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(10).await;
    let mut worker = database.connect(&database.worker_url).await;
    let elsewhere = database.server.lock().await.url("postgres", "postgres");
    for (url, begin) in [
        (
            &database.owner_url,
            "begin isolation level repeatable read; select from users",
        ),
        // In another database: it holds back the snapshots of ours.
        (&elsewhere, "begin; select pg_current_xact_id()"),
    ] {
        let mut reader = database.connect(url).await;
        sql::run(&mut reader, begin).await;
        let first = run_round(&mut worker, min_points(0)).await;
        let second = run_round(&mut worker, min_points(0)).await;
        let pause = second.finished_at - first.finished_at;
        assert!(pause >= TimeDelta::seconds(2), "{begin}: {pause}");
        // It does not wait until the clock has passed the end of a round that was ahead.
        database
            .run("update rounds set finished_at = finished_at + interval '2 h'")
            .await;
        run_round(&mut worker, min_points(0)).await;
        sql::run(&mut reader, "rollback").await;
        database.run("delete from rounds").await;
        let mut last = run_round(&mut worker, min_points(0)).await;
        eventually("without such a snapshot it does not wait", async || {
            let before = last.finished_at;
            last = run_round(&mut worker, min_points(0)).await;
            last.finished_at - before < TimeDelta::seconds(2)
        })
        .await;
        database.run("delete from rounds").await;
    }
}
