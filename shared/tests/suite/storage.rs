//! The tables under rounds and queries: updates are HOT, nothing grows, and constraints reject rows
//! that no program may write. Over a real Postgres.

use std::ops::Range;

use chrono::TimeDelta;
use shared::db::close;
use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

use crate::{ROUND_TIMEOUT, run_round};

// These tests use their own servers: a long transaction in any database of a server blocks pruning.
#[tokio::test(flavor = "multi_thread")]
async fn all_updates_are_hot_and_the_tables_do_not_grow() {
    let database = TestDatabase::with_own_server().await;
    database.seed(50_000).await;
    // The first vacuum adds the visibility map and the free space map. Later it would look like
    // growth.
    database.run("vacuum users, settings").await;
    database
        .run("alter table users set (autovacuum_enabled = off)")
        .await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    let mut sizes = Vec::new();
    for _ in 0..12 {
        run_round(&mut worker, MinPoints::draw()).await;
        for _ in 0..200 {
            api.answer().await.unwrap();
        }
        let size: i64 = database
            .value(
                "select sum(pg_total_relation_size(name))::bigint \
                 from unnest(array['users', 'settings']::regclass[]) as name",
            )
            .await;
        sizes.push(size);
    }
    assert!(sizes[1..].iter().all(|size| *size == sizes[1]), "{sizes:?}");
    let chain: i64 = database
        .value("select pg_relation_size('last_query')")
        .await;
    assert!(chain <= 4 * 8192, "{chain} bytes for one row");
    // A session reports its statistics when it is idle.
    eventually("all updates are counted and HOT", async || {
        database
            .value(
                "select n_tup_upd = 12 * 50000 and n_tup_hot_upd = n_tup_upd \
                 from pg_stat_user_tables where relname = 'users'",
            )
            .await
    })
    .await;
}

// A checkpoint pins a page while it writes it, too briefly for a test. A cursor keeps its pin.
#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_pages_that_a_round_could_not_prune_is_reused() {
    // So many that the pinned pages are less than 2 % of all: without `vacuum_index_cleanup`, a
    // vacuum would skip them.
    const USERS: i64 = 100_000;
    let database = TestDatabase::with_own_server().await;
    let autovacuum = async |state| {
        let change = format!("alter table users set (autovacuum_enabled = {state})");
        database.run(&change).await;
    };
    autovacuum("off").await;
    database.seed(USERS).await;
    let mut worker = database.connect(&database.worker).await;
    let mut rounds = 0;
    let mut round = async || {
        run_round(&mut worker, MinPoints::draw()).await;
        raw_sql("select pg_stat_force_next_flush()")
            .execute(&mut worker)
            .await
            .unwrap();
        rounds += 1;
        let counted = format!(
            "select n_tup_upd = {rounds} * {USERS} \
             from pg_stat_user_tables where relname = 'users'"
        );
        eventually("the round is counted", async || {
            database.value(&counted).await
        })
        .await;
    };
    let dead = async || {
        database
            .value::<i64>("select n_dead_tup from pg_stat_user_tables where relname = 'users'")
            .await
    };
    let size = async || {
        database
            .value::<i64>("select pg_relation_size('users')")
            .await
    };
    // From the second round after a vacuum, each round prunes as many row versions as it leaves.
    round().await;
    database.run("vacuum users").await;
    round().await;
    round().await;
    assert_eq!(
        dead().await,
        USERS,
        "autovacuum would start after each round"
    );
    let before = size().await;

    // Each pinned page has 61 dead versions that stay, and 51 users that move to another page. Both
    // add up to more than a thousand, autovacuum's threshold.
    let pinned = pin_pages(&database, 10..36).await;
    round().await;
    close(pinned).await;
    let grown = size().await;
    assert!(grown > before, "pinned pages make the table grow");
    let dead_now = dead().await;
    assert!(
        (USERS + 1_001..USERS * 3 / 2).contains(&dead_now),
        "{dead_now}"
    );
    autovacuum("on").await;
    eventually("a vacuum records the free space", async || {
        database
            .value("select autovacuum_count > 0 from pg_stat_user_tables where relname = 'users'")
            .await
    })
    .await;
    // A pin only matters on a page with versions to prune.
    round().await;

    // Fewer than before: the pages pinned before now also hold the next versions of their own
    // users.
    let pinned = pin_pages(&database, 60..70).await;
    round().await;
    close(pinned).await;
    assert_eq!(size().await, grown);
}

/// Pins these pages of `users` until the session ends.
async fn pin_pages(database: &TestDatabase, pages: Range<u32>) -> PgConnection {
    let mut session = database.superuser().await;
    let cursors = pages.map(|page| {
        // By `ctid`: an index or sequential scan would prune the page.
        format!(
            "declare page_{page} cursor for select from users where ctid = any ( \
                 array( \
                     select format('({page},%s)', item)::tid from generate_series(1, 300) as item \
                 ) \
             ); \
             fetch page_{page};"
        )
    });
    let statements = format!("begin; {}", cursors.collect::<String>());
    raw_sql(AssertSqlSafe(statements))
        .execute(&mut session)
        .await
        .unwrap();
    session
}

#[tokio::test]
async fn constraints_reject_invalid_rows() {
    let database = TestDatabase::with_users(2).await;
    for (statement, constraint) in [
        ("update users set points = 101", "users_points_are_0_to_100"),
        ("update users set points = -1", "users_points_are_0_to_100"),
        ("insert into users (id) values (0)", "users_id_is_positive"),
        ("insert into users (id) values (1)", "users_pkey"),
        (
            "update settings set min_points = 101",
            "settings_min_points_is_0_to_100",
        ),
        (
            "update settings set min_points = -1",
            "settings_min_points_is_0_to_100",
        ),
        (
            "insert into settings (min_points) values (1)",
            "settings_pkey",
        ),
        (
            "insert into settings (only_row, min_points) values (false, 1)",
            "settings_has_one_row",
        ),
        (
            "update settings set first_user_id = 2, second_user_id = 1",
            "settings_users_are_in_order",
        ),
        (
            "update settings set second_user_id = 1",
            "settings_second_user_follows_a_first",
        ),
        (
            "update settings set first_points = 101",
            "settings_first_points_are_0_to_100",
        ),
        (
            "update settings set second_points = -1",
            "settings_second_points_are_0_to_100",
        ),
        ("insert into last_query default values", "last_query_pkey"),
        (
            "insert into last_query (only_row) values (false)",
            "last_query_has_one_row",
        ),
        (
            "update last_query set queried_at = now(), previous_at = now() + interval '1 s'",
            "last_query_never_goes_back",
        ),
        (
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values (now(), true, now() - interval '1 s', now(), 0)",
            "rounds_start_not_before_their_tick",
        ),
        (
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values (now(), true, now(), now() - interval '1 s', 0)",
            "rounds_finish_not_before_their_start",
        ),
        (
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values (now(), true, now(), now(), -1)",
            "rounds_users_updated_is_not_negative",
        ),
    ] {
        let mut session = database.superuser().await;
        let error = sqlx::query(statement)
            .execute(&mut session)
            .await
            .unwrap_err();
        let violated = error
            .as_database_error()
            .and_then(|error| error.constraint());
        assert_eq!(violated, Some(constraint), "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_back_to_back_under_load_do_not_make_the_tables_grow() {
    let database = TestDatabase::with_own_server().await;
    database.seed(100_000).await;
    let mut worker = database.connect(&database.worker).await;
    let mut first_size = None;
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let mut api = database.replica_session().await;
        readers.spawn(async move {
            loop {
                api.answer().await.unwrap();
            }
        });
    }
    let every_moment = |at| Some(at);
    for done in 1..=8 {
        eventually("a round is done", async || {
            let outcome = rounds::run_due(
                &mut worker,
                Layout::SingleNode,
                every_moment,
                TimeDelta::zero(),
                ROUND_TIMEOUT,
            );
            matches!(outcome.await.unwrap(), rounds::Outcome::Done(_))
        })
        .await;
        let size: i64 = database.value("select pg_relation_size('users')").await;
        assert_eq!(*first_size.get_or_insert(size), size, "after {done} rounds");
    }
    readers.abort_all();
    let chain: i64 = database
        .value("select pg_relation_size('last_query')")
        .await;
    assert!(chain < 1 << 20, "{chain} bytes for one row");
}
