use std::time::Instant;

use shared::last_query::{ANSWER_SQL, answer};
use shared::users::Layout;
use shared::{MinPoints, rounds};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use testkit::{PATIENCE, TestDatabase};

/// The pages that a statement touches, as the server counts them: all levels of the plan.
async fn pages(connection: &mut PgConnection, statement: &str) -> i64 {
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
async fn the_statement_touches_a_handful_of_pages_whatever_statistics_and_minimum_are() {
    let database = TestDatabase::with_users(200_000).await;
    let mut api = database.connect(&database.api).await;
    let mut worker = database.connect(&database.worker).await;
    let table: i64 = database
        .value("select pg_relation_size('users') / 8192")
        .await;
    assert!(table > 2_000, "a scan would be noticed");
    // Right after seeding, when there are none; then with those of a table that is all zeros; then with those of a round.
    for statistics in ["", "analyze", "analyze"] {
        database.run(statistics).await;
        assert!(pages(&mut api, ANSWER_SQL).await <= 30, "{statistics:?}");
        for minimum in ["0", "50", "99", "100"] {
            database.run(&format!("update settings set min_points = {minimum}, first_user_id = 7, first_points = 60, second_user_id = 199999, second_points = 99")).await;
            let pages = pages(&mut api, ANSWER_SQL).await;
            assert!(pages <= 30, "{pages} pages at {minimum}, {statistics:?}");
        }
        if statistics == "analyze" {
            rounds::run_now(&mut worker, Layout::SingleNode, MinPoints::draw(), PATIENCE)
                .await
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_long_transaction_leaves_behind_does_not_slow_the_statement() {
    // A long transaction in any database of a server keeps the others' rows from being pruned.
    let database = TestDatabase::with_own_server().await;
    let mut api = database.connect(&database.api).await;
    // As a replica has it: prepared once, when the table was small.
    let prepare = format!("prepare answer as {ANSWER_SQL}");
    api.execute(AssertSqlSafe(prepare)).await.unwrap();
    assert!(pages(&mut api, "execute answer").await <= 30);
    let mut dump = database.connect(&database.owner).await;
    dump.execute("begin isolation level repeatable read; table last_query")
        .await
        .unwrap();
    for _ in 0..8_000 {
        answer(&mut api).await.unwrap();
    }
    dump.execute("commit").await.unwrap();
    let table = "select pg_relation_size('last_query') / 8192";
    let left: i64 = database.value(table).await;
    assert!(left > 40, "{left} pages: a scan would not be noticed");
    database.run("vacuum last_query").await;
    let pages = pages(&mut api, "execute answer").await;
    assert!(pages <= 30, "{pages} pages of {left}");
}

#[tokio::test]
async fn the_very_first_query_has_none_before_it() {
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
async fn all_queries_form_one_chain_in_the_order_in_which_they_were_asked() {
    let database = TestDatabase::with_users(10).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut api = database.connect(&database.api).await;
        clients.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..500 {
                let asked = Instant::now();
                let answer = answer(&mut api).await.unwrap();
                seen.push((answer.queried_at, answer.previous_at, asked, Instant::now()));
            }
            seen
        });
    }
    let mut chain = clients.join_all().await.concat();
    chain.sort();
    assert_eq!(chain[0].1, None);
    for pair in chain.windows(2) {
        assert_eq!(pair[1].1, Some(pair[0].0), "a fork or a gap");
    }
    // An answer that arrived before a question was asked comes before it.
    let mut last_asked = chain[0].2;
    for &(_, _, asked, arrived) in &chain {
        assert!(arrived >= last_asked, "a later question came first");
        last_asked = last_asked.max(asked);
    }
}

#[tokio::test]
async fn the_time_never_goes_back_when_the_clock_does() {
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
