//! Times that are recorded ahead of the database's clock.

use shared::domain::clock::{TimeAhead, read_time_ahead};
use testkit::TestDatabase;

use super::insert_round;

#[tokio::test]
async fn times_ahead_of_the_clock_are_noticed() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    let none = TimeAhead {
        rounds_seconds: 0.0,
        last_query_seconds: 0.0,
    };
    assert_eq!(read_time_ahead(&mut worker).await.unwrap(), none);
    insert_round(&database, "'epoch'", "now() - interval '1 second'").await;
    database
        .run("update last_query set queried_at = now()")
        .await;
    assert_eq!(read_time_ahead(&mut worker).await.unwrap(), none);
    insert_round(&database, "now()", "now() + interval '1 hour'").await;
    database
        .run("update last_query set queried_at = now() + interval '2 hours'")
        .await;
    let ahead = read_time_ahead(&mut worker).await.unwrap();
    assert!(
        (3_400.0..=3_600.0).contains(&ahead.rounds_seconds),
        "{ahead:?}"
    );
    assert!(
        (7_000.0..=7_200.0).contains(&ahead.last_query_seconds),
        "{ahead:?}"
    );
}
