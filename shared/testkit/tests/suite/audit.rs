//! Each kind of error that the database's audit shows is detected.

use sqlx::raw_sql;
use testkit::{Report, eventually};

use crate::{checked, query, round};

/// The writes of a worker's round without the fence: the tick is always due.
const ROUND_WITHOUT_FENCE: &str = "
    begin;
    select pg_try_advisory_xact_lock(1);
    update users set points = floor(random() * 101), updated_at = now();
    update settings set min_points = 0, first_user_id = 1, second_user_id = null
    where (select points from users where id = 1) > 0;
    update settings set min_points = 100, first_user_id = null, second_user_id = null
    where (select points from users where id = 1) = 0;
    insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
    values ('2026-01-01 00:00:00Z', true, now(), clock_timestamp(), 1)
    on conflict (tick_at) do update
    set finished_at = excluded.finished_at, started_at = excluded.started_at;
    commit";

/// The checker's report after a correct round and query, and then these statements.
async fn report_after(statements: &str) -> Report {
    let (database, checker) = checked(3).await;
    round(&database).await;
    query(&database, &checker).await;
    database.run(statements).await;
    checker.report(&database).await
}

#[tokio::test]
async fn two_rounds_without_a_fence_are_detected() {
    let (database, checker) = checked(1).await;
    database.run(ROUND_WITHOUT_FENCE).await;
    let once = checker.report(&database).await;
    assert_eq!(once.count("ticks done twice"), 0, "{once}");
    database.run(ROUND_WITHOUT_FENCE).await;
    let twice = checker.report(&database).await;
    assert_eq!(twice.count("ticks done twice"), 1, "{twice}");
    assert!(!twice.is_clean());
}

#[tokio::test]
async fn two_holders_of_the_lock_are_detected() {
    let (database, checker) = checked(1).await;
    let (first_half, second_half) =
        ROUND_WITHOUT_FENCE.split_at(ROUND_WITHOUT_FENCE.find("insert").unwrap());
    let mut first = database.superuser().await;
    raw_sql(first_half).execute(&mut first).await.unwrap();
    // The other one begins, and waits for the row locks.
    let other = ROUND_WITHOUT_FENCE.replace("2026-01-01", "2026-01-02");
    let ((), waiting) = tokio::join!(database.run(&other), async {
        eventually("the other transaction waits for a lock", async || {
            database
                .value(
                    "select exists ( \
                         select from pg_stat_activity \
                         where datname = current_database() and wait_event_type = 'Lock' \
                     )",
                )
                .await
        })
        .await;
        raw_sql(second_half).execute(&mut first).await
    });
    waiting.unwrap();
    let report = checker.report(&database).await;
    assert_eq!(
        (
            report.count("rounds at the same time"),
            report.count("ticks done twice")
        ),
        (1, 0),
        "{report}"
    );
    assert!(!report.is_clean());
}

#[tokio::test]
async fn an_incomplete_round_is_detected() {
    for half in [
        "update users set points = 1, updated_at = now()",
        "update settings set min_points = min_points",
        "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
         values (now(), true, now(), now(), 3)",
    ] {
        let report = report_after(half).await;
        assert_eq!(report.count("incomplete rounds"), 1, "{half}: {report}");
    }
}

#[tokio::test]
async fn a_user_that_is_not_renewed_is_detected() {
    let report = report_after("update users set points = 1, updated_at = now() where id > 1").await;
    assert_eq!(report.count("users not renewed"), 1, "{report}");
    let report = report_after("update users set points = 1").await;
    assert_eq!(report.count("users not renewed"), 3, "{report}");
}

#[tokio::test]
async fn users_that_do_not_qualify_or_are_too_few_are_detected() {
    for wrong in [
        "update settings set min_points = 100, first_user_id = 1, second_user_id = 2",
        "begin; \
         update users set points = 50; \
         update settings set min_points = 10, first_user_id = 1, second_user_id = null; \
         commit",
    ] {
        let report = report_after(wrong).await;
        assert_eq!(
            report.count("rounds with wrong users"),
            1,
            "{wrong}: {report}"
        );
    }
}

#[tokio::test]
async fn a_fork_and_a_step_back_of_the_chain_are_detected() {
    for wrong in [
        // A query of another replica is lost.
        "update last_query set previous_at = previous_at, queried_at = clock_timestamp()",
        "update last_query \
         set previous_at = queried_at, queried_at = queried_at - interval '1 second'",
    ] {
        let (database, checker) = checked(1).await;
        round(&database).await;
        query(&database, &checker).await;
        // The table's constraint would refuse one of them.
        database
            .run("alter table last_query drop constraint last_query_never_goes_back")
            .await;
        database.run(wrong).await;
        let report = checker.report(&database).await;
        assert_eq!(report.count("errors in the chain"), 1, "{wrong}: {report}");
    }
}
