//! The two users that answers show.

use testkit::TestDatabase;

use super::min_points;
use crate::run_round;

#[tokio::test]
async fn an_answer_holds_two_users_of_one_round() {
    let database = TestDatabase::with_users(500).await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    run_round(&mut worker, min_points(20)).await;
    let mut shown = vec![api.answer().await.unwrap().users];
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let rounds = tokio::spawn({
        let mut observer = database.replica_session().await;
        async move {
            let mut shown = Vec::new();
            for _ in 0..100 {
                run_round(&mut worker, min_points(20)).await;
                shown.push(observer.answer().await.unwrap().users);
                let _ = sender.try_send(());
            }
            shown
        }
    });
    let mut answers = Vec::new();
    while receiver.try_recv() != Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) {
        answers.push(api.answer().await.unwrap().users);
    }
    shown.extend(rounds.await.unwrap());
    for users in &answers {
        assert!(shown.contains(users), "no round chose {users:?}");
    }
}

#[tokio::test]
async fn the_two_users_are_drawn_from_all_that_qualify() {
    let database = TestDatabase::with_users(2_000).await;
    // A gap as large as all other ids: the user after it must not be favoured.
    database.run("insert into users (id) values (4000)").await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    let mut quarters = [0_i32; 4];
    for _ in 0..400 {
        run_round(&mut worker, min_points(90)).await;
        let users = api.answer().await.unwrap().users;
        let [first, second] = users[..] else {
            panic!("{users:?}")
        };
        assert!(first.id < second.id);
        assert!(first.points > 90 && second.points > 90);
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
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    for minimum in 0..=100 {
        run_round(&mut worker, min_points(minimum)).await;
        let users = api.answer().await.unwrap().users;
        assert!(
            users.iter().all(|user| user.points > minimum),
            "minimum {minimum}: {users:?}"
        );
        let qualifying: i64 = database
            .value(&format!(
                "select count(*) from users where points > {minimum}"
            ))
            .await;
        assert_eq!(
            users.len(),
            usize::try_from(qualifying.min(2)).unwrap(),
            "minimum {minimum}"
        );
    }
    assert_eq!(api.answer().await.unwrap().users, []);
}

#[tokio::test]
async fn the_two_users_stay_the_same_for_the_whole_round_and_must_exceed_the_minimum() {
    let database = TestDatabase::with_users(1_000).await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    run_round(&mut worker, min_points(30)).await;
    let users = api.answer().await.unwrap().users;
    assert_eq!(users.len(), 2);
    for _ in 0..50 {
        assert_eq!(api.answer().await.unwrap().users, users);
    }
    // An answer depends on the round's choice and minimum only, not on `users`.
    database.run("update users set points = 0").await;
    assert_eq!(api.answer().await.unwrap().users, users);
    for (points, left) in [
        (users[0].points.min(users[1].points), 1),
        (users[0].points.max(users[1].points), 0),
    ] {
        database
            .run(&format!("update settings set min_points = {points}"))
            .await;
        let still = api.answer().await.unwrap().users;
        assert!(still.iter().all(|user| user.points > points));
        assert!(still.len() <= left);
    }
}
