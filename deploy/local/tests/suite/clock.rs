//! Workers whose own clocks are wrong. Needs faketime (`sudo apt-get install -y faketime`).

use std::fs;

use testkit::{Checker, TestDatabase};

use crate::folder;
use crate::service::{start_process, wait_for_next_round};

#[tokio::test]
#[ignore = "needs faketime"]
async fn workers_whose_clocks_are_an_hour_wrong_or_are_set_back_do_each_tick_once() {
    let library = (fs::read_dir("/usr/lib").unwrap().flatten())
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("faketime is installed: sudo apt-get install -y faketime");
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let folder = folder();
    let clocks = ["ahead", "behind"].map(|name| folder.path().join(name));
    fs::write(&clocks[0], "+1h").unwrap();
    fs::write(&clocks[1], "-1h").unwrap();
    let [mut ahead, mut behind] = clocks.each_ref().map(|clock| {
        let environment = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
        ];
        start_process("worker", &database.worker_url, &environment)
    });
    database
        .wait_until("select count(*) >= 20 from rounds")
        .await;
    assert!(ahead.stop().await.success(), "{}", ahead.output());
    fs::write(&clocks[1], "-2h").unwrap();
    for _ in 0..3 {
        wait_for_next_round(&database).await;
    }
    assert!(behind.stop().await.success(), "{}", behind.output());
    checker.assert_clean(&database).await;
    let late = "select count(*) from rounds where started_at - tick_at > interval '1 minute'";
    let late: i64 = database.value(late).await;
    assert_eq!(late, 0, "ticks follow the database's clock");
}
