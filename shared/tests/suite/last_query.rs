//! Queries of one or several replicas' sessions: their order, what an answer shows, when the row of
//! the chain is released, and how many pages a message touches.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use shared::domain::MinPoints;
use shared::domain::last_query::ChainSession;
use shared::domain::last_query::message::{HOLDING_ROW, RELEASING_EARLY, send};
use shared::domain::users::User;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use testkit::TestDatabase;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::run_round;

/// How many pages an answer touches, in all nodes of its statements' plans.
async fn count_pages(session: &mut PgConnection) -> i64 {
    let mut pages = 0;
    for statement in HOLDING_ROW.split(';') {
        let explain = format!("explain (analyze, buffers, format json) {statement}");
        let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(explain))
            .fetch_one(&mut *session)
            .await
            .unwrap();
        let root = &plan[0]["Plan"];
        for name in ["Shared Hit Blocks", "Shared Read Blocks"] {
            pages += root[name].as_i64().unwrap();
        }
    }
    pages
}

#[tokio::test]
async fn the_statement_touches_few_pages_whatever_the_statistics_and_the_minimum_are() {
    let database = TestDatabase::with_users(200_000).await;
    let mut api = database.replica_session().await;
    let mut worker = database.connect(&database.worker).await;
    let table_pages: i64 = database
        .value("select pg_relation_size('users') / 8192")
        .await;
    assert!(table_pages > 2_000, "a scan would touch too few pages");
    // Without statistics, as right after seeding; with those of a table that is all zeros; with
    // those of a round.
    for statistics in ["", "analyze", "analyze"] {
        database.run(statistics).await;
        let pages = count_pages(api.session()).await;
        assert!(pages <= 30, "{pages} pages, {statistics:?}");
        for minimum in ["0", "50", "99", "100"] {
            database
                .run(&format!(
                    "update settings set min_points = {minimum}, \
                     first_user_id = 7, first_points = 60, \
                     second_user_id = 199999, second_points = 99"
                ))
                .await;
            let pages = count_pages(api.session()).await;
            assert!(
                pages <= 30,
                "{pages} pages at minimum {minimum}, {statistics:?}"
            );
        }
        if statistics == "analyze" {
            run_round(&mut worker, MinPoints::draw()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_of_a_long_transaction_do_not_slow_the_statement() {
    // Its own server: a long transaction in any database of a server blocks pruning in all of them.
    let database = TestDatabase::with_own_server().await;
    let mut api = database.replica_session().await;
    // Planned while the table is small.
    assert!(count_pages(api.session()).await <= 30);
    let mut dump = database.connect(&database.owner).await;
    dump.execute("begin isolation level repeatable read; table last_query")
        .await
        .unwrap();
    for _ in 0..8_000 {
        api.answer().await.unwrap();
    }
    dump.execute("commit").await.unwrap();
    let table_pages: i64 = database
        .value("select pg_relation_size('last_query') / 8192")
        .await;
    assert!(
        table_pages > 40,
        "a scan would touch only {table_pages} pages"
    );
    database.run("vacuum last_query").await;
    let pages = count_pages(api.session()).await;
    assert!(pages <= 30, "{pages} pages of {table_pages}");
}

// The compiler checks the statements' texts, but not how the rows of their message are decoded.
#[tokio::test]
async fn an_answer_is_what_the_tables_hold() {
    let database = TestDatabase::new().await;
    let mut api = database.replica_session().await;
    let user = |id, points| User { id, points };
    for (choice, users) in [
        ("100, null, null, null, null", vec![]),
        ("0, 7, 60, null, null", vec![user(7, 60)]),
        (
            "59, 7, 60, 9223372036854775807, 100",
            vec![user(7, 60), user(i64::MAX, 100)],
        ),
        // A user that does not exceed the minimum is left out.
        ("60, 7, 60, 8, 61", vec![user(8, 61)]),
        ("100, 7, 60, 8, 100", vec![]),
    ] {
        database
            .run(&format!(
                "update settings set (min_points, first_user_id, first_points, second_user_id, \
                 second_points) = ({choice})"
            ))
            .await;
        for message in [HOLDING_ROW, RELEASING_EARLY] {
            let answer = send(api.session(), message).await.unwrap();
            assert_eq!(answer.users, users, "{choice}");
            let queried_at = database.value("select queried_at from last_query").await;
            let previous_at = database.value("select previous_at from last_query").await;
            assert_eq!(
                (Some(answer.queried_at), answer.previous_at),
                (queried_at, previous_at)
            );
        }
    }
}

#[tokio::test]
async fn an_error_rolls_back_the_move_and_keeps_no_lock() {
    let database = TestDatabase::new().await;
    let before = database.replica_session().await.answer().await.unwrap();
    // The first refuses the move, the second the read.
    for (broken, mended) in [
        (
            "alter table last_query add constraint broken check (false) not valid",
            "alter table last_query drop constraint broken",
        ),
        (
            "revoke select on settings from max_two_api",
            "grant select on settings to max_two_api",
        ),
    ] {
        for message in [HOLDING_ROW, RELEASING_EARLY] {
            let mut api = database.replica_session().await;
            database.run(broken).await;
            send(api.session(), message).await.unwrap_err();
            let locked = "select queried_at from last_query for update nowait";
            let queried_at: DateTime<Utc> = database.value(locked).await;
            assert_eq!(queried_at, before.queried_at);
            database.run(mended).await;
        }
    }
    let after = database.replica_session().await.answer().await.unwrap();
    assert_eq!(after.previous_at, Some(before.queried_at));
}

#[tokio::test]
async fn without_its_row_a_table_gives_no_answer() {
    for table in ["last_query", "settings"] {
        let database = TestDatabase::new().await;
        let mut api = database.replica_session().await;
        api.answer().await.unwrap();
        database.run(&format!("delete from {table}")).await;
        api.answer().await.unwrap_err();
    }
}

#[tokio::test]
async fn the_very_first_query_has_no_previous_one() {
    let database = TestDatabase::new().await;
    let mut api = database.replica_session().await;
    let first = api.answer().await.unwrap();
    assert_eq!(first.previous_at, None);
    assert_eq!(
        api.answer().await.unwrap().previous_at,
        Some(first.queried_at)
    );
}

#[tokio::test]
async fn all_queries_form_one_chain_in_the_order_in_which_they_were_sent() {
    let database = TestDatabase::with_users(10).await;
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let mut api = database.replica_session().await;
        clients.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..500 {
                let sent_at = Instant::now();
                let answer = api.answer().await.unwrap();
                let received_at = Instant::now();
                answers.push((answer.queried_at, answer.previous_at, sent_at, received_at));
            }
            answers
        });
    }
    let mut chain = clients.join_all().await.concat();
    chain.sort();
    assert_eq!(chain[0].1, None);
    for pair in chain.windows(2) {
        assert_eq!(pair[1].1, Some(pair[0].0), "a fork or a gap in the chain");
    }
    // A query that was answered before another was sent comes before it.
    let mut last_sent_at = chain[0].2;
    for &(_, _, sent_at, received_at) in &chain {
        assert!(received_at >= last_sent_at, "a later query came first");
        last_sent_at = last_sent_at.max(sent_at);
    }
}

/// Sessions answer as fast as they can, while these rounds follow each other. Returns the answers
/// in the order of the chain: each one's time, that of the query before, and its round.
async fn answers_around_rounds(
    database: &TestDatabase,
    sessions: u32,
    rounds: RangeInclusive<i64>,
) -> Vec<(DateTime<Utc>, Option<DateTime<Utc>>, Option<i64>)> {
    let mut worker = database.connect(&database.worker).await;
    let answered = Arc::new(Semaphore::new(0));
    let mut replicas = JoinSet::new();
    for _ in 0..sessions {
        let mut api = database.replica_session().await;
        let answered = Arc::clone(&answered);
        replicas.spawn(async move {
            let mut answers = Vec::new();
            while !answered.is_closed() {
                let answer = api.answer().await.unwrap();
                let round = answer.users.first().map(|user| user.id);
                answers.push((answer.queried_at, answer.previous_at, round));
                answered.add_permits(1);
            }
            answers
        });
    }
    for number in rounds {
        // All that an answer shows of a round: a user, who bears the round's number.
        sqlx::query("update settings set min_points = 0, first_user_id = $1, first_points = 1")
            .bind(number)
            .execute(&mut worker)
            .await
            .unwrap();
        answered.acquire_many(sessions).await.unwrap().forget();
    }
    answered.close();
    let mut chain = replicas.join_all().await.concat();
    chain.sort();
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_shows_users_of_a_round_that_an_answer_before_it_had_left_behind() {
    // Sessions wait for the row while another's commit waits for the disk.
    let database = TestDatabase::with_durable_server().await;
    for (sessions, rounds) in [(2, 1..=200), (3, 201..=400), (6, 401..=600)] {
        let chain = answers_around_rounds(&database, sessions, rounds).await;
        let older = chain.windows(2).filter(|pair| pair[1].2 < pair[0].2);
        assert_eq!(
            older.count(),
            0,
            "{sessions} sessions, {} answers",
            chain.len()
        );
        let mut shown: Vec<_> = chain.iter().map(|answer| answer.2).collect();
        shown.dedup();
        assert!(
            shown.len() > 100,
            "only {} of 200 rounds were shown",
            shown.len()
        );
    }
}

#[tokio::test]
async fn the_time_does_not_go_back_when_the_clock_does() {
    let database = TestDatabase::new().await;
    database
        .run("update last_query set queried_at = now() + interval '1 hour'")
        .await;
    let mut api = database.replica_session().await;
    let first = api.answer().await.unwrap();
    assert_eq!(Some(first.queried_at), first.previous_at);
    assert_eq!(
        api.answer().await.unwrap().previous_at,
        Some(first.queried_at)
    );
}

#[tokio::test]
async fn a_session_releases_the_row_early_while_another_moves_the_chain_too() {
    let database = TestDatabase::new().await;
    let mut first = database.replica_session().await;
    let mut second = database.replica_session().await;
    let id: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(first.session())
        .await
        .unwrap();
    let expect_next = async |first: &mut ChainSession, message: &str| {
        first.answer().await.unwrap();
        let sent: String = database
            .value(&format!(
                "select query from pg_stat_activity where pid = {id}"
            ))
            .await;
        assert_eq!(sent, message);
    };
    expect_next(&mut first, HOLDING_ROW).await;
    expect_next(&mut first, HOLDING_ROW).await;
    second.answer().await.unwrap();
    // It learns of the other session by this answer.
    expect_next(&mut first, HOLDING_ROW).await;
    expect_next(&mut first, RELEASING_EARLY).await;
    // That one told it that it is alone again.
    expect_next(&mut first, HOLDING_ROW).await;
}
