//! The commands that end by themselves, and the settings of all.

use testkit::{TestDatabase, TestProgram};

use crate::{count_rounds, start, worker};

#[tokio::test]
async fn migrate_creates_the_schema_and_can_be_repeated() {
    let database = TestDatabase::new().await;
    database
        .run("drop table users, settings, rounds, last_query, _sqlx_migrations")
        .await;
    for filters in ["", "info, "] {
        // Empty filters are as if they were not there: the line is logged.
        let environment = [
            ("DATABASE_URL", &*database.owner_url),
            ("RUST_LOG", filters),
        ];
        let mut program = start(&["migrate"], &environment);
        assert!(program.wait().await.success(), "{}", program.output());
        assert_eq!(program.count_events("migrated"), 1);
    }
    let settings: i64 = database.value("select count(*) from settings").await;
    assert_eq!(settings, 1);
}

#[tokio::test]
async fn seed_adds_the_missing_users_once_users_is_not_locked_and_can_be_repeated() {
    let database = TestDatabase::with_users(20_000).await;
    let blocker = database.begin("lock table users").await;
    let owner = ("DATABASE_URL", &*database.owner_url);
    let seed = || start(&["seed", "--users", "50000"], &[owner]);
    let mut program = seed();
    // After the first lock_timeout.
    program.wait_for_event("seed_waiting").await;
    drop(blocker);
    assert_eq!(program.field("added").await, 30_000);
    assert!(program.wait().await.success());
    assert_eq!(program.count_events("seeded"), 1);
    let mut again = seed();
    assert_eq!(again.field("added").await, 0);
    assert!(again.wait().await.success());
    let users: i64 = database
        .value("select count(*) from users where id between 1 and 50000 and points = 0")
        .await;
    assert_eq!(users, 50_000);
}

#[tokio::test]
async fn round_does_one_round_now_and_prints_its_duration() {
    let database = TestDatabase::with_users(1_000).await;
    for _ in 0..2 {
        let mut program = worker(&database, &["round", "--min-points", "37"], &[]);
        assert!(program.wait().await.success(), "{}", program.output());
        let output = program.output();
        let milliseconds = output
            .strip_prefix("round done: 1000 users renewed in ")
            .and_then(|rest| rest.strip_suffix(" ms\n"));
        // Nothing else is printed, and so not the minimum.
        assert!(
            milliseconds.is_some_and(|number| number.parse::<u32>().is_ok()),
            "{output}"
        );
    }
    assert_eq!(count_rounds(&database).await, 2);
    let minimum: i32 = database.value("select min_points from settings").await;
    assert_eq!(minimum, 37);
}

/// Arguments, a variable, and what the error names.
const BAD_SETTINGS: &str = "
run --schedule=*|COOLDOWN=1s|--schedule
run|SCHEDULE=0 0 0 31 2 *|--schedule
run|COOLDOWN=200000000000y|--cooldown
run|ROUND_TIMEOUT=25h|--round-timeout
run|RUST_LOG=a=b=c|RUST_LOG
round --min-points 101|COOLDOWN=1s|--min-points
seed --users -1|COOLDOWN=1s|--users
seed|COOLDOWN=1s|--users
run|DATABASE_URL=mysql://role:canary-password@host/x|DATABASE_URL
migrate|DATABASE_URL=postgres://role@nowhere.invalid/x?sslpassword=canary-password|sslpassword
migrate|DATABASE_URL=postgres://role:/7M?canary-password@host/x|DATABASE_URL
run|DATABASE_URL=|DATABASE_URL
run|COOLDOWN=1s|DATABASE_URL_FILE
migrate|DATABASE_URL_FILE=/nowhere/at/all|DATABASE_URL_FILE /nowhere/at/all";

#[tokio::test]
async fn a_bad_setting_is_named_in_one_line_with_exit_status_2() {
    for line in BAD_SETTINGS.trim_start().lines() {
        let [arguments, variable, named] = *line.split('|').collect::<Vec<_>>() else {
            panic!("{line}")
        };
        let arguments: Vec<_> = arguments.split(' ').collect();
        let mut program = start(&arguments, &[variable.split_once('=').unwrap()]);
        let status = program.wait().await;
        let output = program.output();
        assert_eq!(status.code(), Some(2), "{line}: {output}");
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(output.contains(named), "{output}");
        assert!(!output.contains("canary-password"), "{output}");
    }
}

/// The program with standard output and standard error on a full disk.
fn start_with_full_output(command: &str, variable: (&str, &str)) -> TestProgram {
    let program = env!("CARGO_BIN_EXE_max-two-worker");
    let redirected = "exec \"$0\" \"$1\" >/dev/full 2>&1";
    TestProgram::start("sh", &["-c", redirected, program, command], [variable])
}

#[tokio::test]
async fn output_that_cannot_be_written_fails_no_command() {
    let database = TestDatabase::with_users(10).await;
    let url = ("DATABASE_URL", &*database.worker_url);
    let mut round = start_with_full_output("round", url);
    assert_eq!(round.wait().await.code(), Some(0));
    assert_eq!(count_rounds(&database).await, 1);

    let mut bad = start_with_full_output("run", ("COOLDOWN", "soon"));
    assert_eq!(bad.wait().await.code(), Some(2));
}

#[test]
fn every_setting_is_documented_with_its_default() {
    testkit::settings::assert_documented::<worker::Settings>();
}
