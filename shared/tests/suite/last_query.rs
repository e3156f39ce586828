use std::time::Instant;

use shared::last_query::{ANSWER_SQL, answer};
use shared::users::Layout;
use shared::{MinPoints, rounds};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use testkit::TestDatabase;

use crate::ROUND_TIMEOUT;

/// How many pages a statement touches, in all nodes of its plan.
async fn count_pages(connection: &mut PgConnection, statement: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {statement}");
    let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(explain))
        .fetch_one(connection)
        .await
        .unwrap();
    let root = &plan[0]["Plan"];
    ["Shared Hit Blocks", "Shared Read Blocks"]
        .map(|name| root[name].as_i64().unwrap())
        .iter()
        .sum()
}

#[tokio::test]
async fn the_statement_touches_few_pages_whatever_the_statistics_and_the_minimum_are() {
    let database = TestDatabase::with_users(200_000).await;
    let mut api = database.connect(&database.api).await;
    let mut worker = database.connect(&database.worker).await;
    let table_pages: i64 = database
        .value("select pg_relation_size('users') / 8192")
        .await;
    assert!(table_pages > 2_000, "a scan would touch too few pages");
    // Without statistics, as right after seeding; with those of a table that is all zeros; with
    // those of a round.
    for statistics in ["", "analyze", "analyze"] {
        database.run(statistics).await;
        let pages = count_pages(&mut api, ANSWER_SQL).await;
        assert!(pages <= 30, "{pages} pages, {statistics:?}");
        for minimum in ["0", "50", "99", "100"] {
            database
                .run(&format!(
                    "update settings set min_points = {minimum}, \
                     first_user_id = 7, first_points = 60, \
                     second_user_id = 199999, second_points = 99"
                ))
                .await;
            let pages = count_pages(&mut api, ANSWER_SQL).await;
            assert!(
                pages <= 30,
                "{pages} pages at minimum {minimum}, {statistics:?}"
            );
        }
        if statistics == "analyze" {
            rounds::run_now(
                &mut worker,
                Layout::SingleNode,
                MinPoints::draw(),
                ROUND_TIMEOUT,
            )
            .await
            .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_of_a_long_transaction_do_not_slow_the_statement() {
    // Its own server: a long transaction in any database of a server blocks pruning in all of them.
    let database = TestDatabase::with_own_server().await;
    let mut api = database.connect(&database.api).await;
    // As in a replica: prepared once, while the table was small.
    let prepare = format!("prepare answer as {ANSWER_SQL}");
    api.execute(AssertSqlSafe(prepare)).await.unwrap();
    assert!(count_pages(&mut api, "execute answer").await <= 30);
    let mut dump = database.connect(&database.owner).await;
    dump.execute("begin isolation level repeatable read; table last_query")
        .await
        .unwrap();
    for _ in 0..8_000 {
        answer(&mut api).await.unwrap();
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
    let pages = count_pages(&mut api, "execute answer").await;
    assert!(pages <= 30, "{pages} pages of {table_pages}");
}

#[tokio::test]
async fn the_very_first_query_has_no_previous_one() {
    let database = TestDatabase::new().await;
    let mut api = database.connect(&database.api).await;
    let first = answer(&mut api).await.unwrap();
    assert_eq!(first.previous_at, None);
    assert_eq!(
        answer(&mut api).await.unwrap().previous_at,
        Some(first.queried_at)
    );
}

#[tokio::test]
async fn all_queries_form_one_chain_in_the_order_in_which_they_were_sent() {
    let database = TestDatabase::with_users(10).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut api = database.connect(&database.api).await;
        clients.spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..500 {
                let sent_at = Instant::now();
                let answer = answer(&mut api).await.unwrap();
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

#[tokio::test]
async fn the_time_does_not_go_back_when_the_clock_does() {
    let database = TestDatabase::new().await;
    database
        .run("update last_query set queried_at = now() + interval '1 hour'")
        .await;
    let mut api = database.connect(&database.api).await;
    let first = answer(&mut api).await.unwrap();
    assert_eq!(Some(first.queried_at), first.previous_at);
    assert_eq!(
        answer(&mut api).await.unwrap().previous_at,
        Some(first.queried_at)
    );
}
