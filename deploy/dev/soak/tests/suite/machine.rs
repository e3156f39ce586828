//! Faults that take rights or tools of the machine, or minutes: `cargo test --workspace -- --ignored`, as root, with
//! PgBouncer and faketime installed.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Checker, Client, Program, TestDatabase, eventually, free_address};
use tokio::time::sleep;

use crate::{EVERY_SECOND, EXECUTABLE, fleet, rounds_go_on};

/// What a fault in this file may last.
const A_MINUTE: Duration = Duration::from_mins(1);

fn worker(url: &str, environment: &[(&str, &str)]) -> Program {
    let common = [
        ("DATABASE_URL", url),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("SCHEDULE", EVERY_SECOND),
        ("COOLDOWN", "0s"),
    ];
    Program::start(
        EXECUTABLE,
        &["worker"],
        common.iter().chain(environment).copied(),
    )
}

fn replica(url: &str) -> Program {
    let environment = [
        ("DATABASE_URL", url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
    ];
    Program::start(EXECUTABLE, &["api"], environment)
}

/// Where Debian's package faketime has put its library.
fn faketime() -> String {
    let folders = fs::read_dir("/usr/lib").expect("there is such a folder");
    folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("sudo apt-get install -y faketime")
        .display()
        .to_string()
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn workers_whose_clocks_are_an_hour_wrong_do_each_tick_once() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let library = faketime();
    let mut workers = ["+1h", "-1h"].map(|wrong| {
        let clock = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME", wrong),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        worker(&database.worker, &clock)
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
    assert_eq!(late, 0, "ticks are the database's");
}

#[tokio::test]
#[ignore = "needs faketime"]
async fn a_clock_that_is_set_back_stops_the_scheduler_and_livez_says_so_while_rounds_go_on() {
    let database = TestDatabase::with_users(1_000).await;
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let library = faketime();
    let clock_settings = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut program = worker(&database.worker, &clock_settings);
    program.wait_for_output("round done").await;
    let admin = Client::new(program.address("admin").await);
    assert_eq!(admin.get("/livez").await.status, 200);
    fs::write(&clock, "-1h").unwrap();
    eventually("it is noticed", async || {
        let reply = admin.get("/livez").await;
        reply.status == 503 && reply.body.starts_with(b"the scheduler has stopped")
    })
    .await;
    rounds_go_on(&database).await;
    assert!(program.stop().await.success());
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_worker_that_is_stopped_for_a_minute_commits_nothing_when_it_goes_on() {
    let database = TestDatabase::with_users(100_000).await;
    let checker = Checker::install(&database).await;
    let mut fleet = fleet(&database, 2, 1).await;
    rounds_go_on(&database).await;
    // In the middle of its UPDATE.
    let victim = loop {
        let busy = "select coalesce((select query like 'update users%' from pg_stat_activity \
                    where datname = current_database() and application_name = 'max-two-worker' and state = 'active' \
                    order by query like 'update users%' desc limit 1), false)";
        eventually("a round runs", async || database.value(busy).await).await;
        fleet.workers[0].program.signal(Signal::SIGSTOP);
        let holds = "select exists (select from pg_stat_activity where datname = current_database() \
                     and application_name = 'max-two-worker' and state = 'idle in transaction')";
        // Its session waits for it if it was the one; a moment decides.
        sleep(Duration::from_secs(1)).await;
        if database.value(holds).await {
            break &fleet.workers[0];
        }
        fleet.workers[0].program.signal(Signal::SIGCONT);
    };
    let stopped = Instant::now();
    rounds_go_on(&database).await;
    let taken_over = stopped.elapsed();
    println!("taken over after {taken_over:.1?}");
    assert!(taken_over < Duration::from_secs(15), "{taken_over:?}");
    sleep(A_MINUTE.saturating_sub(stopped.elapsed())).await;
    victim.program.signal(Signal::SIGCONT);
    rounds_go_on(&database).await;
    fleet.stop().await;
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn users_that_are_locked_for_a_minute_keep_no_reader_waiting_and_the_round_follows() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let mut fleet = fleet(&database, 2, 1).await;
    rounds_go_on(&database).await;
    let mut obstacle = database.superuser().await;
    sqlx::raw_sql("set idle_in_transaction_session_timeout = 0; begin; lock table users")
        .execute(&mut obstacle)
        .await
        .unwrap();
    let client = Client::new(fleet.addresses[0]);
    let locked = Instant::now();
    while locked.elapsed() < A_MINUTE {
        assert_eq!(checker.query(&client).await, Some(200));
        sleep(Duration::from_millis(10)).await;
    }
    shared::db::close(obstacle).await;
    let free = Instant::now();
    rounds_go_on(&database).await;
    println!("the next round was done {:.1?} after", free.elapsed());
    assert!(
        free.elapsed() < Duration::from_secs(5),
        "{:?}",
        free.elapsed()
    );
    fleet.stop().await;
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
}

/// A file system in memory, gone with its test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> Self {
        let path = std::env::temp_dir().join(format!("max-two-disk-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=777", "none"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success(), "mounting takes root's rights");
        let postgres = path.join("tablespace");
        fs::create_dir(&postgres).unwrap();
        // Postgres runs as another account than root.
        let status = Command::new("chown")
            .arg("postgres")
            .arg(&postgres)
            .status();
        assert!(status.unwrap().success());
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server may still have files open there; they go with it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to mount a disk"]
async fn a_full_disk_stops_rounds_until_there_is_room_and_no_reader() {
    let disk = SmallDisk::mount();
    let database = TestDatabase::with_own_server().await;
    database.seed(50_000).await;
    let place = disk.0.join("tablespace");
    database
        .run(&format!(
            "create tablespace small location '{}'",
            place.display()
        ))
        .await;
    // Without the room that a round needs on its own pages, and with all of the disk taken.
    for statement in [
        "alter table users set (fillfactor = 100)",
        "alter table users set tablespace small",
        "vacuum full users",
        "create table ballast (stuff text) tablespace small",
        "do $$ begin
             loop
                 begin
                     insert into ballast select repeat('stuff', 200) from generate_series(1, 20);
                 exception when disk_full then
                     exit;
                 end;
             end loop;
         end $$",
    ] {
        database.run(statement).await;
    }
    let mut worker = worker(&database.worker, &[]);
    worker.wait_for_output("No space left on device").await;
    let mut replica = replica(&database.api);
    let client = Client::new(replica.address("listen").await);
    eventually("it answers", async || client.get("/").await.status == 200).await;
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
    database.run("drop table ballast").await;
    worker.wait_for_output("round done").await;
    assert!(worker.stop().await.success());
    assert!(replica.stop().await.success());
}

/// Starts PgBouncer in front of the database.
async fn pooler(
    database: &TestDatabase,
    settings: &str,
) -> (Program, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let address = free_address();
    let server = database.server.lock().await;
    let [api, worker] = ["max_two_api", "max_two_worker"].map(|role| {
        format!(
            "host=127.0.0.1 port={} dbname={} user={role} password={}",
            server.port(),
            database.name(),
            server.password()
        )
    });
    let file = folder.path().join("pgbouncer.ini");
    let port = address.port();
    let text = format!(
        "[databases]\napi = {api}\nworker = {worker}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         auth_type = any\n{settings}\n"
    );
    fs::write(&file, text).unwrap();
    let readable = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status();
    assert!(readable.unwrap().success());
    let mut command = tokio::process::Command::new("pgbouncer");
    if nix::unistd::Uid::effective().is_root() {
        command.args(["-u", "postgres"]);
    }
    command.arg(&file).stdin(std::process::Stdio::null());
    let mut program = Program::spawn(command);
    program.wait_for_output("process up").await;
    (program, address, folder)
}

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn behind_a_pooler_both_programs_say_at_once_what_they_need() {
    let database = TestDatabase::with_users(100).await;
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
    ] {
        let (pooler, address, _folder) = pooler(&database, settings).await;
        let url = |role| format!("postgres://anybody@{address}/{role}");
        let (mut worker, mut replica) = (worker(&url("worker"), &[]), replica(&url("api")));
        for program in [&mut worker, &mut replica] {
            program
                .wait_for_output("the database is behind a pooler")
                .await;
            program.wait_for_output("\"ERROR\"").await;
        }
        let client = Client::new(replica.address("listen").await);
        assert_eq!(client.get("/readyz").await.status, 503);
        assert!(worker.stop().await.success());
        assert!(replica.stop().await.success());
        drop(pooler);
    }
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
}
