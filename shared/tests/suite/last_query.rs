//! Queries of one or several replicas' sessions: their order, what an answer shows, when the row of
//! the chain is released, and how many pages a message touches.

use shared::db::schema::migrate;
use shared::db::{Error, Session};
use shared::domain::MinPoints;
use shared::domain::last_query::message::{self, EARLY_LOCK_RELEASE, SINGLE_COMMIT, send};
use shared::domain::last_query::{Answer, ChainSession};
use shared::domain::users::User;
use sqlx::raw_sql;
use testkit::{TestDatabase, sql};
use tokio::task::JoinHandle;

use crate::run_round;

/// Whether no session holds the row of the chain.
async fn is_row_free(database: &TestDatabase) -> bool {
    let mut session = database.superuser().await;
    // Rolled back, for a commit might wait for a standby.
    let lock = "begin; select from last_query for update nowait; rollback";
    raw_sql(lock).execute(&mut session).await.is_ok()
}

/// How many pages an answer touches, in all nodes of its statements' plans.
async fn count_pages(session: &mut Session) -> i64 {
    let mut pages = 0;
    for statement in SINGLE_COMMIT.split(';') {
        let explain = format!("explain (analyze, buffers, format json) {statement}");
        let plan: serde_json::Value = sql::value(session, &explain).await;
        let root = &plan[0]["Plan"];
        for name in ["Shared Hit Blocks", "Shared Read Blocks"] {
            pages += root[name].as_i64().unwrap();
        }
    }
    pages
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_touches_few_pages_whatever_minimum_statistics_and_dead_rows_there_are() {
    // Its own server: one that writes in any database of a server blocks pruning in all.
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(200_000).await;
    // Planned while `last_query` is small.
    let mut api = database.replica_session().await;
    let mut worker = database.connect(&database.worker_url).await;
    // Without statistics, as right after seeding; with those of a table that is all zeros; with
    // those of a round.
    for statistics in ["", "analyze", "analyze"] {
        database.run(statistics).await;
        for minimum in ["0", "50", "99", "100"] {
            run_round(&mut worker, minimum.parse::<MinPoints>().unwrap()).await;
            let pages = count_pages(api.session()).await;
            assert!(pages <= 30, "{pages} pages, {minimum}, {statistics:?}");
        }
    }
    let snapshot = "set transaction isolation level repeatable read; table last_query";
    let mut dump = database.begin(snapshot).await;
    for _ in 0..8_000 {
        api.answer().await.unwrap();
    }
    sql::run(&mut dump, "commit").await;
    database.run("vacuum last_query").await;
    let pages = count_pages(api.session()).await;
    assert!(pages <= 30, "{pages} pages");
    for (table, scan) in [("users", 2_000), ("last_query", 40)] {
        let pages = format!("select pg_relation_size('{table}') / 8192 > {scan}");
        assert!(database.value::<bool>(&pages).await, "a scan touches few");
    }
}

// The compiler checks the statements' texts, but not how the rows of their message are decoded.
#[tokio::test]
async fn an_answer_shows_the_recorded_users_that_qualify_and_the_time_of_the_query_before() {
    const MAX: i64 = i64::MAX;
    let database = TestDatabase::new().await;
    let mut api = database.replica_session().await;
    let one = r#"[{"id": 7, "points": 60}]"#;
    let two = r#"[{"id": 7, "points": 60}, {"id": MAX, "points": 100}]"#;
    for (shown, minimum, expected) in [
        ("[]", 100, &[][..]),
        (one, 0, &[(7, 60)]),
        (two, 59, &[(7, 60), (MAX, 100)]),
        // A user that does not exceed the minimum is left out, whatever wrote the row.
        (two, 60, &[(MAX, 100)]),
        (two, 100, &[]),
    ] {
        let shown = shown.replace("MAX", &MAX.to_string());
        let update = format!("update settings set shown_users = '{shown}', min_points = {minimum}");
        database.run(&update).await;
        for message in [SINGLE_COMMIT, EARLY_LOCK_RELEASE] {
            let answer = send(api.session(), message).await.unwrap();
            let users: Vec<_> = (answer.users.iter())
                .map(|user| (user.id, user.points))
                .collect();
            assert_eq!(users, expected, "{update}");
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
    let refuse_move = "alter table last_query add constraint broken check (false) not valid";
    let refuse_read = "revoke select on settings from max_two_api";
    for broken in [refuse_move, refuse_read] {
        for message in [SINGLE_COMMIT, EARLY_LOCK_RELEASE] {
            let mut api = database.replica_session().await;
            database.run(broken).await;
            send(api.session(), message).await.unwrap_err();
            // Whether the session's transaction is still open or not.
            assert!(is_row_free(&database).await, "{broken}: {message}");
            let mend = "alter table last_query drop constraint if exists broken; \
                        grant select on settings to max_two_api";
            database.run(mend).await;
        }
    }
    let after = database.replica_session().await.answer().await.unwrap();
    assert_eq!(after.previous_at, Some(before.queried_at));
    // Without a row to answer from.
    for broken in ["delete from settings", "delete from last_query"] {
        let mut api = database.replica_session().await;
        database.run(broken).await;
        for error in [
            api.answer().await.map(drop).unwrap_err(),
            message::prepare(&mut database.connect(&database.api_url).await)
                .await
                .unwrap_err(),
        ] {
            assert!(error.to_string().contains("missing"), "{broken}: {error}");
        }
        database
            .run("insert into settings (min_points) values (0) on conflict do nothing")
            .await;
    }
}

/// Sends a message in a task of its own, and returns its answer once it waits for this.
async fn send_and_wait(
    database: &TestDatabase,
    mut api: ChainSession,
    message: &'static str,
    wait_event: &str,
) -> JoinHandle<Result<Answer, Error>> {
    let answer = tokio::spawn(async move { send(api.session(), message).await });
    let is_waiting = format!("usename = 'max_two_api' and wait_event = '{wait_event}'");
    database.wait_for_session(&is_waiting).await;
    answer
}

#[tokio::test]
async fn the_users_are_read_while_the_row_is_held_and_not_from_before() {
    let database = TestDatabase::new().await;
    for message in [SINGLE_COMMIT, EARLY_LOCK_RELEASE] {
        database
            .run("update settings set shown_users = '[]', min_points = 0")
            .await;
        let api = database.replica_session().await;
        let hold_row = "update last_query set queried_at = clock_timestamp()";
        let mut other = database.begin(hold_row).await;
        let answer = send_and_wait(&database, api, message, "transactionid").await;
        database
            .run(r#"update settings set shown_users = '[{"id": 7, "points": 1}]'"#)
            .await;
        sql::run(&mut other, "commit").await;
        let users = answer.await.unwrap().unwrap().users;
        assert_eq!(users, [User { id: 7, points: 1 }], "{message}");

        // Once the row is free, an answer further on in the chain could read before this one.
        let api = database.replica_session().await;
        sql::run(&mut other, "begin; lock table settings").await;
        let answer = send_and_wait(&database, api, message, "relation").await;
        assert!(!is_row_free(&database).await, "{message}");
        sql::run(&mut other, "rollback").await;
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_until_it_is_durable_and_when_released_early_the_row_does_not() {
    let database = TestDatabase::with_own_server(&[]).await;
    for (message, is_released_early) in [(SINGLE_COMMIT, false), (EARLY_LOCK_RELEASE, true)] {
        // No commit that waits for the disk ends before this standby has it. A reload would take
        // effect some time later.
        let missing = "set synchronous_standby_names = 'missing'";
        database.configure(missing).await;
        database.crash_and_restart().await;
        let api = database.replica_session().await;
        let answer = send_and_wait(&database, api, message, "SyncRep").await;
        assert_eq!(is_row_free(&database).await, is_released_early, "{message}");
        let reset = "reset synchronous_standby_names";
        database.configure(reset).await;
        answer.await.unwrap().unwrap();
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
    let second = api.answer().await.unwrap();
    assert_eq!(second.previous_at, Some(first.queried_at));
}

// The constraints reject such a time, once their migration has forgotten it.
#[tokio::test]
async fn a_time_that_no_answer_can_show_is_forgotten_by_the_migration() {
    let database = TestDatabase::new().await;
    for time in ["infinity", "-infinity", "10000-01-01Z", "0044-03-15 BC"] {
        database
            .run(&format!(
                "alter table last_query \
                     drop constraint last_query_queried_at_is_of_the_years_1_to_9999; \
                 update last_query set previous_at = null, queried_at = '{time}'; \
                 delete from _sqlx_migrations where version = 9"
            ))
            .await;
        migrate(&mut database.connect(&database.owner_url).await)
            .await
            .unwrap();
        let mut api = database.replica_session().await;
        assert_eq!(api.answer().await.unwrap().previous_at, None, "{time}");
        assert!(api.answer().await.unwrap().previous_at.is_some());
    }
}

#[tokio::test]
async fn a_session_releases_the_row_early_while_another_moves_the_chain_too() {
    let database = TestDatabase::new().await;
    let mut first = database.replica_session().await;
    let mut second = database.replica_session().await;
    let id: i32 = sql::value(first.session(), "select pg_backend_pid()").await;
    let last_message = format!("select query from pg_stat_activity where pid = {id}");
    for (second_answers_before, message) in [
        (false, SINGLE_COMMIT),
        (false, SINGLE_COMMIT),
        // This answer shows that another session has moved the chain.
        (true, SINGLE_COMMIT),
        (false, EARLY_LOCK_RELEASE),
        // The answer before this showed no other session.
        (false, SINGLE_COMMIT),
    ] {
        if second_answers_before {
            second.answer().await.unwrap();
        }
        first.answer().await.unwrap();
        assert_eq!(database.value::<String>(&last_message).await, message);
    }
}
