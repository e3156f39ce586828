//! Seeding adds the missing users and no others, beside a round or another seeder. Also the layout
//! of `users` without Citus.

use shared::domain::users::{self, Layout, add_missing};
use sqlx::raw_sql;
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

#[tokio::test]
async fn seeding_adds_only_the_missing_users() {
    let database = TestDatabase::with_users(100).await;
    database
        .run("delete from users where id in (1, 50, 100); update users set points = 7")
        .await;
    let mut owner = database.connect(&database.owner).await;
    assert_eq!(add_missing(&mut owner, 1..=120).await.unwrap(), 23);
    assert_eq!(add_missing(&mut owner, 1..=120).await.unwrap(), 0);
    let (kept, all): (i64, i64) = (
        database
            .value("select count(*) from users where points = 7")
            .await,
        database
            .value("select count(*) from users where id between 1 and 120")
            .await,
    );
    assert_eq!((kept, all), (97, 120));
}

/// As when a call is killed, and others have added some of its users.
#[tokio::test]
async fn seeding_fills_every_gap() {
    let database = TestDatabase::with_users(100).await;
    database
        .run("delete from users where id % 3 <> 0 or id between 31 and 60")
        .await;
    let mut owner = database.connect(&database.owner).await;
    assert_eq!(add_missing(&mut owner, 2..=99).await.unwrap(), 75);
    let ids: Vec<i64> = database
        .value("select array_agg(id order by id) from users")
        .await;
    assert_eq!(ids, (2..=99).collect::<Vec<_>>());
}

/// The insert waits for a transaction that has inserted one of its users, and then skips that user.
#[tokio::test]
async fn a_user_that_another_session_inserts_meanwhile_is_left_to_it() {
    let database = TestDatabase::new().await;
    let mut other = database.superuser().await;
    raw_sql("begin; insert into users (id, points) values (50, 7)")
        .execute(&mut other)
        .await
        .unwrap();
    let mut owner = database.connect(&database.owner).await;
    let seeding = tokio::spawn(async move { add_missing(&mut owner, 1..=100).await });
    eventually("the insert waits", async || {
        database
            .value::<bool>(
                "select exists (select from pg_stat_activity \
                 where datname = current_database() and wait_event = 'transactionid')",
            )
            .await
    })
    .await;
    raw_sql("commit").execute(&mut other).await.unwrap();
    assert_eq!(seeding.await.unwrap().unwrap(), 99);
    let (all, points): (i64, i64) = (
        database.value("select count(*) from users").await,
        database.value("select sum(points) from users").await,
    );
    assert_eq!((all, points), (100, 7));
}

#[tokio::test]
async fn seeding_does_not_wait_for_a_running_round() {
    let database = TestDatabase::with_users(100).await;
    database.run("delete from users where id = 50").await;
    // Holds all rows until it ends, as a round does.
    let mut round = database.superuser().await;
    raw_sql("begin; update users set points = 1")
        .execute(&mut round)
        .await
        .unwrap();
    let mut owner = database.connect(&database.owner).await;
    assert_eq!(add_missing(&mut owner, 1..=120).await.unwrap(), 21);
    raw_sql("commit").execute(&mut round).await.unwrap();
}

#[tokio::test]
async fn seeding_writes_nothing_where_no_user_is_missing() {
    let database = TestDatabase::with_users(100).await;
    database
        .run(
            "create function refuse() returns trigger language plpgsql as \
                 $$ begin raise 'an insert'; end $$; \
             create trigger refuse before insert on users \
                 for each statement execute function refuse()",
        )
        .await;
    let mut owner = database.connect(&database.owner).await;
    assert_eq!(add_missing(&mut owner, 1..=100).await.unwrap(), 0);
}

#[tokio::test]
async fn two_sessions_can_seed_at_the_same_time() {
    let database = TestDatabase::new().await;
    let mut seeders = JoinSet::new();
    for _ in 0..2 {
        let mut owner = database.connect(&database.owner).await;
        seeders.spawn(async move {
            let mut added = 0;
            for first in (1..=20_000).step_by(1_000) {
                added += add_missing(&mut owner, first..=first + 999).await.unwrap();
            }
            added
        });
    }
    assert_eq!(seeders.join_all().await.iter().sum::<u64>(), 20_000);
    assert_eq!(
        database.value::<i64>("select count(*) from users").await,
        20_000
    );
}

#[tokio::test]
async fn without_citus_the_layout_is_a_single_node() {
    let database = TestDatabase::new().await;
    let mut worker = database.connect(&database.worker).await;
    assert_eq!(
        users::read_layout(&mut worker).await.unwrap(),
        Layout::SingleNode
    );
}
