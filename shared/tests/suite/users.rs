//! Seeding adds the missing users and no others, beside a round or another seeder.

use shared::domain::users::add_missing;
use testkit::{TestDatabase, sql};

#[tokio::test]
async fn seeding_beside_a_round_adds_the_missing_users_and_no_others() {
    let database = TestDatabase::with_users(100).await;
    // As when a call is killed, and others have added some of its users.
    database
        .run("delete from users where id % 3 <> 0 or id between 31 and 60; update users set points = 7")
        .await;
    // Holds all rows until it ends, as a round does.
    let mut round = database.begin("update users set points = 8").await;
    let mut owner = database.connect(&database.owner_url).await;
    assert_eq!(add_missing(&mut owner, 2..=120).await.unwrap(), 96);
    assert_eq!(add_missing(&mut owner, 2..=120).await.unwrap(), 0);
    sql::run(&mut round, "commit").await;
    let ids: Vec<i64> = database
        .value("select array_agg(id order by id) from users")
        .await;
    assert_eq!(ids, (2..=120).collect::<Vec<_>>());
    let kept: i64 = database
        .value("select count(*) from users where points = 8")
        .await;
    assert_eq!(kept, 23);
}

/// The insert waits for a transaction that has inserted one of its users, and then skips that user.
#[tokio::test]
async fn a_user_that_another_session_inserts_meanwhile_is_left_to_it() {
    let database = TestDatabase::new().await;
    let insert = "insert into users (id, points) values (50, 7)";
    let mut other = database.begin(insert).await;
    let mut owner = database.connect(&database.owner_url).await;
    let seeding = tokio::spawn(async move { add_missing(&mut owner, 1..=100).await });
    database
        .wait_for_session("wait_event = 'transactionid'")
        .await;
    sql::run(&mut other, "commit").await;
    assert_eq!(seeding.await.unwrap().unwrap(), 99);
    let points: i64 = database.value("select sum(points) from users").await;
    assert_eq!(points, 7);
}
