//! The two users that answers show.

use testkit::TestDatabase;

use super::min_points;
use crate::run_round;

#[tokio::test]
async fn the_two_users_are_drawn_from_all_that_qualify() {
    let database = TestDatabase::with_users(2_000).await;
    // A gap as large as all other ids: the user after it must not be favoured.
    database.run("insert into users (id) values (4000)").await;
    let mut worker = database.connect(&database.worker_url).await;
    let mut api = database.replica_session().await;
    let mut quarters = [0_i32; 4];
    for _ in 0..400 {
        run_round(&mut worker, min_points(90)).await;
        let users = api.answer().await.unwrap().users;
        let [first, second] = &users[..] else {
            panic!("{users:?}")
        };
        assert!(first.id < second.id);
        for id in [first.id, second.id] {
            if id <= 2_000 {
                quarters[usize::try_from((id - 1) / 500).unwrap()] += 1;
            }
        }
    }
    // One user of two thousand: expected in ten of ten thousand rounds.
    let after_gap = 800 - quarters.iter().sum::<i32>();
    assert!(
        after_gap <= 6,
        "the user after the gap was drawn {after_gap} times"
    );
    // A fair draw of 800 puts 200 ± 12 into each quarter. This allows six standard deviations.
    assert!(
        quarters.iter().all(|count| (128..=272).contains(count)),
        "{quarters:?}"
    );
}

#[tokio::test]
async fn at_every_minimum_an_answer_shows_two_qualifying_users_if_there_are_two() {
    let database = TestDatabase::with_users(150).await;
    let mut worker = database.connect(&database.worker_url).await;
    let mut api = database.replica_session().await;
    for minimum in 0..=100 {
        run_round(&mut worker, min_points(minimum)).await;
        let users = api.answer().await.unwrap().users;
        assert!(
            users.iter().all(|user| user.points > minimum),
            "minimum {minimum}: {users:?}"
        );
        let are_all = format!(
            "select least(count(*), 2) = {} from users where points > {minimum}",
            users.len()
        );
        assert!(
            database.value::<bool>(&are_all).await,
            "{minimum}: {users:?}"
        );
    }
}
