use shared::users::{self, Layout, seed};
use sqlx::raw_sql;
use testkit::TestDatabase;

#[tokio::test]
async fn seeding_adds_only_the_missing_users() {
    let database = TestDatabase::with_users(100).await;
    database
        .run("delete from users where id in (1, 50, 100); update users set points = 7")
        .await;
    let mut owner = database.connect(&database.owner).await;
    assert_eq!(seed(&mut owner, 1..=120).await.unwrap(), 23);
    assert_eq!(seed(&mut owner, 1..=120).await.unwrap(), 0);
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
    assert_eq!(seed(&mut owner, 1..=120).await.unwrap(), 21);
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
    assert_eq!(seed(&mut owner, 1..=100).await.unwrap(), 0);
}

#[tokio::test]
async fn two_sessions_can_seed_at_the_same_time() {
    let database = TestDatabase::new().await;
    let mut seeders = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut owner = database.connect(&database.owner).await;
        seeders.spawn(async move {
            let mut added = 0;
            for first in (1..=20_000).step_by(1_000) {
                added += seed(&mut owner, first..=first + 999).await.unwrap();
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
        users::layout(&mut worker).await.unwrap(),
        Layout::SingleNode
    );
}
