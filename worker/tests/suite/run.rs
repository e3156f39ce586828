use std::time::{Duration, Instant};

use testkit::{Client, TestDatabase, eventually};

use crate::worker;

/// A tick that comes once a year: the due one is long past.
const YEARLY: (&str, &str) = ("SCHEDULE", "0 0 0 1 1 *");
const EVERY_SECOND: (&str, &str) = ("SCHEDULE", "* * * * * *");

#[tokio::test]
async fn the_due_tick_is_done_at_the_start_and_not_again_by_the_next_worker() {
    let database = TestDatabase::with_users(100).await;
    let mut first = worker(&database, &[], &[YEARLY]);
    first.wait_for_output("round done").await;
    let mut second = worker(&database, &["run"], &[YEARLY]);
    let metrics = Client::new(second.address("admin").await);
    eventually("the second one looked", async || {
        let text = metrics.get("/metrics").await.body;
        String::from_utf8_lossy(&text).contains("round_attempts_total{outcome=\"not_due\"} 1")
    })
    .await;
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        1
    );
}

#[tokio::test]
async fn ticks_that_were_missed_for_ten_minutes_are_one_round() {
    let database = TestDatabase::with_users(100).await;
    database
        .run("insert into rounds select tick_at, true, tick_at, tick_at, 100 from (select date_trunc('minute', now()) - interval '10 minutes' as tick_at) as tick")
        .await;
    let mut program = worker(&database, &[], &[]);
    program.wait_for_output("round done").await;
    // Two looks later it is still one.
    let admin = Client::new(program.address("admin").await);
    eventually("it looked twice again", async || {
        let text = admin.get("/metrics").await.body;
        String::from_utf8_lossy(&text).contains("round_attempts_total{outcome=\"not_due\"} 2")
    })
    .await;
    assert!(program.stop().await.success());
    // A minute may have ended meanwhile, and its own tick be done.
    let rounds: i64 = database
        .value("select count(*) from rounds where tick_at > now() - interval '9 minutes'")
        .await;
    assert!((1..=2).contains(&rounds), "{rounds}");
    let stale: i64 = database
        .value("select count(*) from rounds where started_at - tick_at > interval '1 minute'")
        .await;
    assert_eq!(stale, 0, "only the tick that is due");
}

#[tokio::test]
async fn three_workers_do_each_tick_once() {
    let database = TestDatabase::with_users(100).await;
    let mut workers: Vec<_> = (0..3)
        .map(|_| worker(&database, &[], &[EVERY_SECOND, ("COOLDOWN", "0s")]))
        .collect();
    eventually("six rounds", async || {
        database.value("select count(*) >= 6 from rounds").await
    })
    .await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.output());
    }
    let done: usize = workers
        .iter()
        .map(|worker| worker.output().matches("round done").count())
        .sum();
    assert_eq!(
        i64::try_from(done).unwrap(),
        database.value::<i64>("select count(*) from rounds").await
    );
}

#[tokio::test]
async fn a_signal_during_a_round_rolls_it_back() {
    let database = TestDatabase::with_users(10_000).await;
    // The round is in the middle of its UPDATE, and waits for the last user.
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("set idle_in_transaction_session_timeout = 0; begin; update users set points = 1 where id = 10000")
        .execute(&mut obstacle)
        .await
        .unwrap();
    let mut program = worker(&database, &[], &[YEARLY]);
    eventually("the round waits", async || {
        database.value("select exists (select from pg_stat_activity where application_name = 'max-two-worker' and wait_event_type = 'Lock' and datname = current_database())").await
    })
    .await;
    let asked = Instant::now();
    assert!(program.stop().await.success(), "{}", program.output());
    // The promise is two seconds; a machine that is busy with other tests gets more.
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    assert!(
        program.output().contains("the running attempt is given up"),
        "{}",
        program.output()
    );
    // The server lets go of everything: nobody but us holds a lock on users.
    eventually("the round's locks are gone", async || {
        database
            .value("select count(distinct pid) = 1 from pg_locks where relation = 'users'::regclass and mode = 'RowExclusiveLock'")
            .await
    })
    .await;
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_outlives_its_database() {
    let database = TestDatabase::with_own_server().await;
    database.seed(100).await;
    let mut program = worker(&database, &[], &[EVERY_SECOND, ("COOLDOWN", "0s")]);
    program.wait_for_output("round done").await;
    for _ in 0..3 {
        let mut server = database.server.lock().await;
        server.crash();
        server.start_again().unwrap();
        drop(server);
        let before: i64 = database.value("select count(*) from rounds").await;
        eventually("rounds go on", async || {
            database.value::<i64>("select count(*) from rounds").await > before
        })
        .await;
    }
    let admin = Client::new(program.address("admin").await);
    assert!(admin.get("/livez").await.status.is_success());
    assert!(admin.get("/readyz").await.status.is_success());
    assert!(program.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_before_its_database_waits_for_it() {
    let database = TestDatabase::with_own_server().await;
    database.seed(100).await;
    database.server.lock().await.stop();
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_output("no round, will try again").await;
    let admin = Client::new(program.address("admin").await);
    assert!(admin.get("/livez").await.status.is_success());
    assert_eq!(admin.get("/readyz").await.status, 503);
    database.server.lock().await.start_again().unwrap();
    program.wait_for_output("round done").await;
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn metrics_tell_what_became_of_ticks() {
    let database = TestDatabase::with_users(100).await;
    let mut program = worker(&database, &[], &[YEARLY]);
    program.wait_for_output("round done").await;
    let metrics = Client::new(program.address("admin").await)
        .get("/metrics")
        .await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for line in [
        "max_two_worker_round_attempts_total{outcome=\"done\"} 1",
        "max_two_worker_round_attempts_total{outcome=\"busy\"} 0",
        "max_two_worker_round_duration_seconds_count 1",
        "max_two_worker_lag_seconds 0.0",
        "max_two_worker_database_up 1",
        "max_two_worker_build_info{version=",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(
        Client::new(program.address("admin").await)
            .get("/")
            .await
            .status,
        404
    );
}
