//! The tables under rounds and queries: updates are HOT, nothing grows, and constraints reject rows
//! that no program may write. Over a real Postgres.

use shared::domain::MinPoints;
use sqlx::AssertSqlSafe;
use testkit::{TestDatabase, eventually, sql};
use tokio::task::JoinSet;

use crate::run_round;

// These tests use their own servers: a transaction that writes in any database of a server blocks
// pruning.
#[tokio::test(flavor = "multi_thread")]
async fn all_updates_are_hot_and_no_table_grows_in_200_rounds_under_load() {
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(5_000).await;
    // The first vacuum adds the visibility map and the free space map. Later it would look like
    // growth.
    database.run("vacuum users, settings").await;
    database
        .run("alter table users set (autovacuum_enabled = off)")
        .await;
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let mut api = database.replica_session().await;
        readers.spawn(async move {
            loop {
                api.answer().await.unwrap();
            }
        });
    }
    let mut worker = database.connect(&database.worker_url).await;
    let mut sizes = Vec::new();
    for rounds in [20, 180] {
        for _ in 0..rounds {
            run_round(&mut worker, MinPoints::draw()).await;
        }
        let size: i64 = database
            .value(
                "select sum(pg_total_relation_size(name))::bigint \
                 from unnest(array['users', 'settings']::regclass[]) as name",
            )
            .await;
        sizes.push(size);
    }
    readers.abort_all();
    assert_eq!(sizes[0], sizes[1]);
    let chain: i64 = database
        .value("select pg_relation_size('last_query')")
        .await;
    assert!(chain < 1 << 20, "{chain} bytes for one row");
    // A session reports its statistics when it is idle.
    eventually("all updates are counted and HOT", async || {
        database
            .value(
                "select n_tup_upd = 200 * 5000 and n_tup_hot_upd = n_tup_upd \
                 from pg_stat_user_tables where relname = 'users'",
            )
            .await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_that_a_snapshot_kept_from_being_pruned_is_reused() {
    // So many that those who move leave less than 2 % of all pages: without
    // `vacuum_index_cleanup`, a vacuum would not record the space there.
    const USERS: i64 = 100_000;
    let database = TestDatabase::with_own_server(&["autovacuum_naptime=1s"]).await;
    database
        .run("alter table users set (autovacuum_enabled = off)")
        .await;
    database.seed(USERS).await;
    let mut worker = database.connect(&database.worker_url).await;
    // From the second round after a vacuum, each round prunes as many row versions as it leaves.
    for vacuum in ["vacuum users", "", ""] {
        run_round(&mut worker, MinPoints::draw()).await;
        sql::run(&mut worker, "select pg_stat_force_next_flush()").await;
        database.run(vacuum).await;
    }
    let dead = "select n_dead_tup from pg_stat_user_tables where relname = 'users'";
    let dead: i64 = database.value(dead).await;
    assert_eq!(dead, USERS, "autovacuum would start after each round");

    // Moves users to other pages, because the snapshot keeps two of their versions on their own,
    // and returns the size of the table.
    let move_users = async |ids: &str| -> i64 {
        let snapshot = "set transaction isolation level repeatable read; select from users limit 1";
        let mut snapshot = database.begin(snapshot).await;
        for _ in 0..2 {
            let update = format!("update users set points = 1 where id between {ids}");
            database.run(&update).await;
        }
        sql::run(&mut snapshot, "commit").await;
        database.value("select pg_relation_size('users')").await
    };
    let size: i64 = database.value("select pg_relation_size('users')").await;
    // More than a thousand, autovacuum's threshold.
    let grown = move_users("1 and 1500").await;
    assert!(grown > size, "users that move make the table grow");
    database
        .run("alter table users set (autovacuum_enabled = on)")
        .await;
    let vacuums = "select autovacuum_count > 0 from pg_stat_user_tables where relname = 'users'";
    eventually("a vacuum records the free space", async || {
        database.value(vacuums).await
    })
    .await;
    assert_eq!(move_users("50001 and 50500").await, grown);
}

/// Constraints, each with a statement that it rejects.
const INVALID: &str = r#"
users_points_are_0_to_100: update users set points = 101
users_points_are_0_to_100: update users set points = -1
users_id_is_positive: insert into users (id) values (0)
users_pkey: insert into users (id) values (1)
settings_min_points_is_0_to_100: update settings set min_points = 101
settings_min_points_is_0_to_100: update settings set min_points = -1
settings_pkey: insert into settings (min_points) values (1)
settings_has_one_row: insert into settings (only_row, min_points) values (false, 1)
settings_shown_users_are_at_most_two: update settings set shown_users = jsonb_build_array(U1, U2, U3)
settings_shown_users_are_in_order: update settings set shown_users = jsonb_build_array(U2, U1)
settings_shown_users_are_in_order: update settings set shown_users = jsonb_build_array(U1, U1)
settings_shown_users_have_an_id: update settings set shown_users = '[{"points": 1}]'
settings_shown_users_have_an_id: update settings set shown_users = '[{"id": 0, "points": 1}]'
settings_shown_points_are_0_to_100: update settings set shown_users = '[{"id": 1, "points": 101}]'
settings_shown_points_are_0_to_100: update settings set shown_users = '[{"id": 1, "points": null}]'
settings_shown_points_are_0_to_100: update settings set shown_users = '{}'
last_query_pkey: insert into last_query default values
last_query_has_one_row: insert into last_query (only_row) values (false)
last_query_never_goes_back: update last_query set queried_at = now(), previous_at = now() + interval '1 s'
last_query_queried_at_is_of_the_years_1_to_9999: update last_query set queried_at = 'infinity'
last_query_queried_at_is_of_the_years_1_to_9999: update last_query set queried_at = '10000-01-01Z'
last_query_queried_at_is_of_the_years_1_to_9999: update last_query set queried_at = '0044-03-15 BC'
rounds_start_not_before_their_tick: insert into rounds values (now(), true, now() - interval '1 s', now(), 0)
rounds_finish_not_before_their_start: insert into rounds values (now(), true, now(), now() - interval '1 s', 0)
rounds_times_are_of_the_years_1_to_9999: insert into rounds values ('-infinity', true, now(), now(), 0)
rounds_times_are_of_the_years_1_to_9999: insert into rounds values (now(), true, now(), 'infinity', 0)
rounds_users_updated_is_not_negative: insert into rounds values (now(), true, now(), now(), -1)"#;

#[tokio::test]
async fn constraints_reject_invalid_rows() {
    let database = TestDatabase::with_users(2).await;
    for line in INVALID.trim_start().lines() {
        let (constraint, statement) = line.split_once(": ").unwrap();
        let mut statement = statement.to_owned();
        for id in 1..=3 {
            let user = format!("jsonb_build_object('id', {id}, 'points', 1)");
            statement = statement.replace(&format!("U{id}"), &user);
        }
        let mut session = database.superuser().await;
        let error = sqlx::query(AssertSqlSafe(&*statement))
            .execute(&mut session)
            .await
            .unwrap_err();
        let violated = error
            .as_database_error()
            .and_then(|error| error.constraint());
        assert_eq!(violated, Some(constraint), "{statement}: {error}");
    }
}
