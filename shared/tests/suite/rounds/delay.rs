//! What delays a due round: a cooldown, or an old snapshot.

use chrono::{DateTime, TimeDelta, Utc};
use shared::domain::rounds::Outcome;
use sqlx::{AssertSqlSafe, raw_sql};
use testkit::TestDatabase;

use super::{NO_COOLDOWN, insert_round, run_due};

/// The latest tick of a schedule with one tick a minute.
fn minute(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.timestamp() / 60 * 60, 0)
}

#[tokio::test]
async fn a_round_that_overran_is_followed_by_a_cooldown() {
    let cooldown = TimeDelta::hours(1);
    for (began, ended, is_cooling_down) in [
        // Ended in the minute after its own, half an hour ago.
        ("31 minutes", "30 minutes", true),
        // The same, but two hours ago: the cooldown is over.
        ("121 minutes", "120 minutes", false),
        // Ended within its own minute.
        ("30 minutes", "30 minutes", false),
    ] {
        let database = TestDatabase::with_users(10).await;
        let [began_at, ended_at] =
            [began, ended].map(|ago| format!("date_trunc('minute', now()) - interval '{ago}'"));
        insert_round(&database, &began_at, &ended_at).await;
        let mut worker = database.connect(&database.worker).await;
        let outcome = run_due(&mut worker, minute, cooldown).await;
        assert_eq!(
            outcome == Outcome::CoolingDown,
            is_cooling_down,
            "{began} {ended}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_round_that_ended_by_a_clock_that_was_ahead_causes_no_cooldown() {
    let database = TestDatabase::with_users(10).await;
    let an_hour_ago = "date_trunc('minute', now()) - interval '1 hour'";
    insert_round(&database, an_hour_ago, "now() + interval '2 hours'").await;
    let mut worker = database.connect(&database.worker).await;
    let outcome = run_due(&mut worker, minute, TimeDelta::seconds(10)).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_waits_two_seconds_for_a_snapshot_older_than_the_last_round() {
    let database = TestDatabase::with_own_server().await;
    database.seed(10).await;
    let mut worker = database.connect(&database.worker).await;
    let mut attempt = async || {
        let every_moment = |at: DateTime<Utc>| Some(at);
        run_due(&mut worker, every_moment, NO_COOLDOWN).await
    };
    let elsewhere = database.server.lock().await.url("postgres", "postgres");
    for (url, begin) in [
        (
            &database.owner,
            "begin isolation level repeatable read; select from users",
        ),
        // In another database: it holds back the snapshots of ours.
        (&elsewhere, "begin; select pg_current_xact_id()"),
    ] {
        let mut reader = database.connect(url).await;
        raw_sql(AssertSqlSafe(begin))
            .execute(&mut reader)
            .await
            .unwrap();
        // No round has been done since the snapshot.
        assert!(matches!(attempt().await, Outcome::Done(_)), "{begin}");
        assert_eq!(attempt().await, Outcome::OldSnapshot, "{begin}");
        // The same snapshot, but the last round is older than two seconds.
        database
            .run(
                "update rounds \
                 set tick_at = tick_at - interval '1 h', \
                     started_at = started_at - interval '1 h', \
                     finished_at = finished_at - interval '1 h'",
            )
            .await;
        assert!(matches!(attempt().await, Outcome::Done(_)), "{begin}");
        assert_eq!(attempt().await, Outcome::OldSnapshot, "{begin}");
        // The same snapshot, but the last round ended by a clock that was ahead.
        database
            .run("update rounds set finished_at = finished_at + interval '2 h'")
            .await;
        assert!(matches!(attempt().await, Outcome::Done(_)), "{begin}");
        raw_sql("rollback").execute(&mut reader).await.unwrap();
        assert!(matches!(attempt().await, Outcome::Done(_)), "{begin}");
    }
}
