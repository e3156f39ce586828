//! Workers whose own clocks are wrong. Needs faketime (`sudo apt-get install -y faketime`).

use std::fs;

use testkit::{Checker, Program, TestDatabase, eventually};

use crate::folder;
use crate::service::{wait_for_next_round, worker};

/// Starts a worker under faketime (Debian's package), with these settings of it.
fn worker_with_clock(database: &TestDatabase, clock: &[(&str, &str)]) -> Program {
    let library = (fs::read_dir("/usr/lib").unwrap().flatten())
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("faketime is installed: sudo apt-get install -y faketime");
    let common = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    worker(&database.worker, &[&common, clock].concat())
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn workers_whose_clocks_are_an_hour_wrong_do_each_tick_once() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let mut workers =
        ["+1h", "-1h"].map(|offset| worker_with_clock(&database, &[("FAKETIME", offset)]));
    eventually("twenty rounds", async || {
        database.value("select count(*) >= 20 from rounds").await
    })
    .await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.output());
    }
    checker.assert_clean(&database).await;
    let late = "select count(*) from rounds where started_at - tick_at > interval '1 minute'";
    let late: i64 = database.value(late).await;
    assert_eq!(late, 0, "ticks follow the database's clock");
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn rounds_continue_when_the_clock_is_set_back() {
    let database = TestDatabase::with_users(1_000).await;
    let folder = folder();
    let clock = folder.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let file = ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    let mut worker = worker_with_clock(&database, &[file, ("FAKETIME_NO_CACHE", "1")]);
    worker.wait_for_event("round_done").await;
    fs::write(&clock, "-1h").unwrap();
    for _ in 0..3 {
        wait_for_next_round(&database).await;
    }
    assert!(worker.stop().await.success());
}
