use std::ops::Range;
use std::time::Duration;

use chrono::TimeDelta;
use shared::db::close;
use shared::users::Layout;
use shared::{MinPoints, last_query, rounds};
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use testkit::{PATIENCE, TestDatabase, eventually};
use tokio::time::sleep;

// On servers of their own: a long transaction in any database of a server keeps rounds from pruning.
#[tokio::test(flavor = "multi_thread")]
async fn all_updates_are_hot_and_the_tables_do_not_grow() {
    let database = TestDatabase::with_own_server().await;
    database.seed(50_000).await;
    // What autovacuum adds to a new table, once, is there from the start: a vacuum in between would look like growth.
    database.run("vacuum users, settings").await;
    database
        .run("alter table users set (autovacuum_enabled = off)")
        .await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.connect(&database.api).await;
    let mut sizes = Vec::new();
    for _ in 0..12 {
        rounds::run_now(&mut worker, Layout::SingleNode, MinPoints::draw(), PATIENCE)
            .await
            .unwrap();
        for _ in 0..200 {
            last_query::answer(&mut api).await.unwrap();
        }
        let size: i64 = database
            .value("select sum(pg_total_relation_size(name))::bigint from unnest(array['users', 'settings']::regclass[]) as name")
            .await;
        sizes.push(size);
    }
    assert!(sizes[1..].iter().all(|size| *size == sizes[1]), "{sizes:?}");
    let chain: i64 = database
        .value("select pg_relation_size('last_query')")
        .await;
    assert!(chain <= 4 * 8192, "{chain} bytes for one row");
    // The server gathers its statistics when a session is idle.
    eventually("all updates are counted, and hot", async || {
        database
            .value("select n_tup_upd = 12 * 50000 and n_tup_hot_upd = n_tup_upd from pg_stat_user_tables where relname = 'users'")
            .await
    })
    .await;
}

// A checkpoint pins a page for the moment that it takes to write it, which no test could meet; but a cursor stays.
#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_pages_that_a_round_had_to_leave_is_used_again() {
    // So many that these pages are less than 2 % of all: a vacuum would not care for them by itself.
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
        rounds::run_now(&mut worker, Layout::SingleNode, MinPoints::draw(), PATIENCE)
            .await
            .unwrap();
        raw_sql("select pg_stat_force_next_flush()")
            .execute(&mut worker)
            .await
            .unwrap();
        rounds += 1;
        let counted = format!(
            "select n_tup_upd = {rounds} * {USERS} from pg_stat_user_tables where relname = 'users'"
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
    // From the second round after a vacuum on, each prunes as many versions as it leaves.
    round().await;
    database.run("vacuum users").await;
    round().await;
    round().await;
    assert_eq!(dead().await, USERS, "a vacuum would come after each round");
    let before = size().await;

    // All 61 versions of each page, in place of which 51 users move: more than a thousand, on either count.
    let pinned = pin_pages(&database, 10..36).await;
    round().await;
    close(pinned).await;
    let grown = size().await;
    assert!(grown > before, "pinned pages make it grow");
    let dead_now = dead().await;
    assert!(
        (USERS + 1_001..USERS * 3 / 2).contains(&dead_now),
        "{dead_now}"
    );
    autovacuum("on").await;
    eventually("a vacuum notes the room", async || {
        database
            .value("select autovacuum_count > 0 from pg_stat_user_tables where relname = 'users'")
            .await
    })
    .await;
    // A pin only matters where a version waits to be pruned.
    round().await;

    // Fewer than before: each page that was left has taken its own next versions, too.
    let pinned = pin_pages(&database, 60..70).await;
    round().await;
    close(pinned).await;
    assert_eq!(size().await, grown);
}

/// Has these pages of the users pinned until the session ends.
async fn pin_pages(database: &TestDatabase, pages: Range<u32>) -> PgConnection {
    let mut session = database.superuser().await;
    let cursors = pages.map(|page| {
        // By its place: a row that is found by an index or a scan has its page pruned.
        format!(
            "declare page_{page} cursor for select from users where ctid = any ( \
                 array(select format('({page},%s)', line)::tid from generate_series(1, 300) as line) \
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
async fn constraints_hold_every_rule_that_they_can() {
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
            "insert into rounds select now(), true, now() - interval '1 s', now(), 0",
            "rounds_start_not_before_their_tick",
        ),
        (
            "insert into rounds select now(), true, now(), now() - interval '1 s', 0",
            "rounds_finish_not_before_their_start",
        ),
        (
            "insert into rounds select now(), true, now(), now(), -1",
            "rounds_users_updated_is_not_negative",
        ),
    ] {
        let mut connection = database.superuser().await;
        let error = sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap_err();
        let broken = error
            .as_database_error()
            .and_then(|error| error.constraint());
        assert_eq!(broken, Some(constraint), "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_one_after_the_other_under_load_leave_the_tables_as_they_are() {
    let database = TestDatabase::with_own_server().await;
    database.seed(100_000).await;
    let mut worker = database.connect(&database.worker).await;
    let mut size = None;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut api = database.connect(&database.api).await;
        readers.spawn(async move {
            loop {
                last_query::answer(&mut api).await.unwrap();
            }
        });
    }
    let every_moment = |at| Some(at);
    let mut done = 0;
    while done < 8 {
        let outcome = rounds::run_due(
            &mut worker,
            Layout::SingleNode,
            every_moment,
            TimeDelta::zero(),
            PATIENCE,
        )
        .await
        .unwrap();
        if matches!(outcome, rounds::Outcome::Done(_)) {
            done += 1;
            let now: i64 = database.value("select pg_relation_size('users')").await;
            assert_eq!(*size.get_or_insert(now), now, "after {done} rounds");
        } else {
            sleep(Duration::from_millis(20)).await;
        }
    }
    readers.abort_all();
    let chain: i64 = database
        .value("select pg_relation_size('last_query')")
        .await;
    assert!(chain < 1 << 20, "{chain} bytes for one row");
}
