//! Workers whose own clocks are wrong. Needs faketime (`sudo apt-get install -y faketime`).

use std::fs;

use testkit::{Checker, Client, TestDatabase, eventually};

use crate::{start_worker, wait_for_next_round};

/// The path of the library of Debian's package faketime.
fn faketime_library() -> String {
    let folders = fs::read_dir("/usr/lib").expect("every Debian has /usr/lib");
    folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("faketime is installed: sudo apt-get install -y faketime")
        .display()
        .to_string()
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn workers_whose_clocks_are_an_hour_wrong_do_each_tick_once() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let library = faketime_library();
    let mut workers = ["+1h", "-1h"].map(|offset| {
        let clock = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        start_worker(&database.worker, &clock)
    });
    eventually("twenty rounds", async || {
        database.value("select count(*) >= 20 from rounds").await
    })
    .await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.output());
    }
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
    let late: i64 = database
        .value("select count(*) from rounds where started_at - tick_at > interval '1 minute'")
        .await;
    assert_eq!(late, 0, "ticks follow the database's clock");
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn when_a_clock_that_is_set_back_stops_the_scheduler_livez_fails_and_rounds_continue() {
    let database = TestDatabase::with_users(1_000).await;
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let library = faketime_library();
    let clock_settings = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut program = start_worker(&database.worker, &clock_settings);
    program.wait_for_event("round_done").await;
    let admin = Client::new(program.address("admin").await);
    assert_eq!(admin.get("/livez").await.status, 200);
    fs::write(&clock, "-1h").unwrap();
    eventually("/livez fails", async || {
        let reply = admin.get("/livez").await;
        reply.status == 503 && reply.body.starts_with(b"the scheduler has stopped")
    })
    .await;
    wait_for_next_round(&database).await;
    assert!(program.stop().await.success());
}
