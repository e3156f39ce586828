//! Faults that need root, tools of the machine, or minutes: `cargo test --workspace -- --ignored`
//! as root, with PgBouncer and faketime installed.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{Checker, Client, Program, TestDatabase, eventually, sql};
use tokio::time::sleep;

use crate::{EVERY_SECOND, EXECUTABLE, start_processes, stop_and_check, wait_for_next_round};

/// The duration of the long faults.
const FAULT_DURATION: Duration = Duration::from_mins(1);
/// The delay between two queries during a long fault.
const QUERY_DELAY: Duration = Duration::from_millis(10);

fn start_worker(url: &str, environment: &[(&str, &str)]) -> Program {
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

fn start_replica(url: &str) -> Program {
    let environment = [
        ("DATABASE_URL", url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("DRAIN_DELAY", "0s"),
    ];
    Program::start(EXECUTABLE, &["api"], environment)
}

/// The path of the library of Debian's package faketime.
fn faketime_library() -> String {
    let folders = fs::read_dir("/usr/lib").expect("Debian has this folder");
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

#[tokio::test]
#[ignore = "takes a minute"]
async fn a_worker_that_is_stopped_for_a_minute_commits_nothing_when_it_continues() {
    let database = TestDatabase::with_users(100_000).await;
    let checker = Checker::install(&database).await;
    let mut stopped = start_processes(&database, 1, 0).await;
    wait_for_next_round(&database).await;
    // Hold the worker in its UPDATE until it is stopped.
    let mut blocker = database.superuser().await;
    sql::run(&mut blocker, "begin; select from users limit 1 for update").await;
    let worker_is = async |state| {
        let query = format!(
            "select exists (select from pg_stat_activity where datname = current_database() \
             and usename = 'max_two_worker' and {state})"
        );
        eventually(state, async || database.value(&query).await).await;
    };
    worker_is("wait_event_type = 'Lock'").await;
    stopped.workers[0].program.signal(Signal::SIGSTOP);
    let stopped_at = Instant::now();
    shared::db::close(blocker).await;
    worker_is("state = 'idle in transaction'").await;
    let others = start_processes(&database, 1, 1).await;
    wait_for_next_round(&database).await;
    let takeover = stopped_at.elapsed();
    println!("the other worker took over after {takeover:.1?}");
    assert!(takeover < Duration::from_secs(15), "{takeover:?}");
    sleep(FAULT_DURATION.saturating_sub(stopped_at.elapsed())).await;
    stopped.workers[0].program.signal(Signal::SIGCONT);
    wait_for_next_round(&database).await;
    stopped.stop().await;
    stop_and_check(others, &checker, &database).await;
}

#[tokio::test]
#[ignore = "takes a minute"]
async fn users_locked_for_a_minute_delay_no_reader_and_the_next_round_follows() {
    let database = TestDatabase::with_users(1_000).await;
    let checker = Checker::install(&database).await;
    let processes = start_processes(&database, 2, 1).await;
    wait_for_next_round(&database).await;
    let mut blocker = database.superuser().await;
    let lock = "set idle_in_transaction_session_timeout = 0; begin; lock table users";
    sql::run(&mut blocker, lock).await;
    let client = Client::new(processes.addresses()[0]);
    let locked_at = Instant::now();
    while locked_at.elapsed() < FAULT_DURATION {
        assert_eq!(checker.query(&client).await, Some(200));
        sleep(QUERY_DELAY).await;
    }
    shared::db::close(blocker).await;
    let unlocked_at = Instant::now();
    wait_for_next_round(&database).await;
    let delay = unlocked_at.elapsed();
    println!("the next round was done {delay:.1?} after the end of the lock");
    assert!(delay < Duration::from_secs(5), "{delay:?}");
    stop_and_check(processes, &checker, &database).await;
}

/// A small file system in memory, unmounted when it is dropped.
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
        assert!(status.success(), "mounting needs root");
        let postgres = path.join("tablespace");
        fs::create_dir(&postgres).unwrap();
        // Under root, the server runs as this account.
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
        // Lazily, because the server may still have files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to mount a disk"]
async fn a_full_disk_stops_rounds_until_there_is_space_and_no_reader() {
    let disk = SmallDisk::mount();
    let database = TestDatabase::with_own_server().await;
    database.seed(50_000).await;
    let tablespace = disk.0.join("tablespace");
    database
        .run(&format!(
            "create tablespace small location '{}'",
            tablespace.display()
        ))
        .await;
    // A round finds no space on the table's own pages, nor on the disk.
    for statement in [
        "alter table users set (fillfactor = 100)",
        "alter table users set tablespace small",
        "vacuum full users",
        "create table filler (content text) tablespace small",
        "do $$ begin
             loop
                 begin
                     insert into filler select repeat('filler', 200) from generate_series(1, 20);
                 exception when disk_full then
                     exit;
                 end;
             end loop;
         end $$",
    ] {
        database.run(statement).await;
    }
    let mut worker = start_worker(&database.worker, &[]);
    worker.wait_for_output("No space left on device").await;
    let mut replica = start_replica(&database.api);
    let client = Client::new(replica.address("listen").await);
    eventually("it answers", async || client.get("/").await.status == 200).await;
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
    database.run("drop table filler").await;
    worker.wait_for_event("round_done").await;
    assert!(worker.stop().await.success());
    assert!(replica.stop().await.success());
}

/// Starts PgBouncer in front of the database. It can't listen on port 0, so it gets a listening
/// socket, as from systemd: file 3, with variables that name the process that it is for.
async fn start_pooler(
    database: &TestDatabase,
    settings: &str,
) -> (Program, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
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
    let text = format!(
        "[databases]\napi = {api}\nworker = {worker}\n[pgbouncer]\nauth_type = any\n{settings}\n"
    );
    fs::write(&file, text).unwrap();
    let readable = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status();
    assert!(readable.unwrap().success());
    let mut command = tokio::process::Command::new("sh");
    command.args([
        "-c",
        "LISTEN_FDS=1 LISTEN_PID=$$ exec pgbouncer \"$@\" 3<&0",
        "pgbouncer",
    ]);
    if nix::unistd::Uid::effective().is_root() {
        command.args(["-u", "postgres"]);
    }
    command.arg(&file).stdin(OwnedFd::from(socket));
    let mut program = Program::spawn(command);
    program.wait_for_output("process up").await;
    (program, address, folder)
}

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn behind_a_pooler_both_programs_log_at_once_what_they_need() {
    let database = TestDatabase::with_users(100).await;
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
    ] {
        let (pooler, address, _folder) = start_pooler(&database, settings).await;
        let url = |role| format!("postgres://anybody@{address}/{role}");
        let mut worker = start_worker(&url("worker"), &[]);
        let mut replica = start_replica(&url("api"));
        for program in [&mut worker, &mut replica] {
            program
                .wait_for_output("the database is behind a pooler")
                .await;
            program.wait_for_output("\"ERROR\"").await;
        }
        worker.wait_for_event("round_failed").await;
        replica.wait_for_event("database_refused").await;
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
