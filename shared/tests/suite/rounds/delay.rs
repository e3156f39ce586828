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
    for (began, ended, is_cooling_down) in [
        // Ended in the minute after its own, half an hour ago.
        ("- interval '31 minutes'", "- interval '30 minutes'", true),
        // The same, but two hours ago: the cooldown is over.
        (
            "- interval '121 minutes'",
            "- interval '120 minutes'",
            false,
        ),
        // Ended within its own minute.
        ("- interval '30 minutes'", "- interval '30 minutes'", false),
        // Ended by a clock that was ahead.
        ("- interval '30 minutes'", "+ interval '2 hours'", false),
    ] {
        let database = TestDatabase::with_users(10).await;
        let minute_at = |offset| format!("date_trunc('minute', now()) {offset}");
        insert_round(&database, &minute_at(began), &minute_at(ended)).await;
        let mut worker = database.connect(&database.worker).await;
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
    let database = TestDatabase::with_own_server().await;
    database.seed(10).await;
    let mut worker = database.connect(&database.worker).await;
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
        for (change, is_done) in [
            // No round has been done since the snapshot.
            ("", true),
            ("", false),
            // The same snapshot, but the last round is older than two seconds.
            (
                "update rounds \
                 set tick_at = tick_at - interval '1 h', \
                     started_at = started_at - interval '1 h', \
                     finished_at = finished_at - interval '1 h'",
                true,
            ),
            ("", false),
            // The same snapshot, but the last round ended by a clock that was ahead.
            (
                "update rounds set finished_at = finished_at + interval '2 h'",
                true,
            ),
        ] {
            database.run(change).await;
            let outcome = run_due(&mut worker, Some, NO_COOLDOWN).await;
            match outcome {
                Outcome::Done { .. } => assert!(is_done, "{begin}: {change}"),
                other => assert_eq!((other, is_done), (Outcome::OldSnapshot, false), "{begin}"),
            }
        }
        raw_sql("rollback").execute(&mut reader).await.unwrap();
        let outcome = run_due(&mut worker, Some, NO_COOLDOWN).await;
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    }
}
