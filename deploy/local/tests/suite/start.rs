//! What a start shows and leaves: from an empty folder, from the data of an earlier start, or with
//! `DATABASE_URL`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use shared::db::{Database, close};
use testkit::{Program, TEST_TIMEOUT, TestDatabase};

use crate::{children, folder, launcher, launcher_in, ready, write_script};

/// An environment that is meant for another server: this one has neither TLS nor that setting.
const FOREIGN_ENVIRONMENT: [(&str, &str); 8] = [
    ("PGSSLMODE", "require"),
    ("PGOPTIONS", "-cno_such_setting=1"),
    ("PGHOST", "nowhere"),
    ("PGHOSTADDR", "192.0.2.1"),
    ("PGPORT", "1"),
    ("PGUSER", "nobody"),
    ("PGDATA", "/nowhere"),
    ("PGDATESTYLE", "no such style"),
];

/// The owner's URL stands in a file for the owner of the file alone, and the password nowhere else.
async fn assert_url_file(program: &Program, folder: &Path) {
    let file = folder.canonicalize().unwrap().join("database-url");
    let url = std::fs::read_to_string(&file).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let database = Database::parse(url.trim_end(), "test").unwrap();
    close(database.connect(TEST_TIMEOUT).await.unwrap()).await;
    let output = program.output();
    let argument = (output.lines())
        .find_map(|line| line.strip_prefix("Its database: psql "))
        .unwrap_or_else(|| panic!("no command in {output}"));
    let printed = Command::new("sh")
        .args(["-c", &format!("printf %s {argument}")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), url.trim_end());
    let password = std::fs::read_to_string(folder.join("password")).unwrap();
    assert!(!output.contains(&password), "{output}");
}

#[tokio::test]
async fn it_starts_in_an_empty_folder_stops_in_order_and_starts_again() {
    let folder = folder();
    let mut program = launcher(folder.path(), &[]);
    let client = ready(&mut program).await;
    let first = client.get("/").await.json();
    assert_eq!(first["timestamp"], serde_json::Value::Null);
    let second = client.get("/").await.json();
    assert_eq!(second["users"], first["users"]);
    assert!(second["timestamp"].is_string());
    assert_url_file(&program, &folder.path().join("data")).await;
    let processes: Vec<_> = ["api", "worker", "postgres"]
        .iter()
        .flat_map(|name| children(program.id(), name))
        .collect();
    assert_eq!(processes.len(), 4, "two replicas, one worker, one server");

    program.signal(Signal::SIGINT);
    assert!(program.wait().await.success(), "{}", program.output());
    for process in processes {
        assert!(kill(process, None).is_err(), "{process} is left");
    }
    let output = program.output();
    let position = |text| {
        output
            .find(text)
            .unwrap_or_else(|| panic!("{text} is not in {output}"))
    };
    assert!(position("api replica 2 has stopped") < position("worker 1 has stopped"));
    assert!(position("worker 1 has stopped") < position("Postgres has stopped"));

    // The data are kept: no `null` again, and no user to add.
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    assert_eq!(program.field("added").await, 0);
    let third = client.get("/").await.json();
    assert_eq!(third["users"], first["users"]);
    assert!(third["timestamp"].is_string());
    assert!(program.stop().await.success());
}

/// `script` runs it in a terminal of its own.
#[tokio::test]
async fn a_person_at_a_terminal_sees_each_step_and_how_to_go_on() {
    let folder = folder();
    let data = folder.path().join("data");
    let command = format!(
        "exec {} --users 1000 --replicas 1 --listen 127.0.0.1:0 --data-dir '{}'",
        env!("CARGO_BIN_EXE_max-two"),
        data.display()
    );
    for database in [
        "Postgres runs, with a new database",
        "Postgres runs, and goes on with the data of an earlier start",
    ] {
        let schedule = [("SCHEDULE", "0 0 0 1 1 *")];
        let mut program = Program::start("script", &["-qec", &command, "/dev/null"], schedule);
        program.wait_for_output("Its database: ").await;
        let [launcher] = children(program.id(), "max-two")[..] else {
            panic!("not exactly one launcher runs")
        };
        kill(launcher, Signal::SIGINT).unwrap();
        assert!(program.wait().await.success(), "{}", program.output());
        let output = program.output();
        let mut rest = &*output;
        let next_start = format!("The next start goes on with the data in {}", data.display());
        for line in [
            "starting Postgres",
            database,
            "1,000 users are there",
            "a replica answers",
            "Max Two is ready: http://127.0.0.1:",
            "curl http://127.0.0.1:",
            "Ctrl-C stops it",
            &next_start,
            "Its database: psql",
            "Max Two has stopped",
        ] {
            let position = rest.find(line);
            rest = &rest[position.unwrap_or_else(|| panic!("{line} is missing in {output}"))..];
        }
        let password = std::fs::read_to_string(data.join("password")).unwrap();
        for operators in ["INFO", "event", "admin", "{\"", &password] {
            assert!(!output.contains(operators), "{operators} is in {output}");
        }
    }
}

#[tokio::test]
async fn the_environment_of_another_server_changes_nothing() {
    let folder = folder();
    let mut program = launcher_in(&FOREIGN_ENVIRONMENT, folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    assert_eq!(client.get("/").await.status, 200);
    for name in ["api", "worker", "postgres"] {
        let [process] = children(program.id(), name)[..] else {
            panic!("not exactly one {name} runs")
        };
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap();
        let inherited: Vec<_> = environment
            .split(|byte| *byte == 0)
            .filter(|variable| variable.starts_with(b"PG"))
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(inherited, Vec::<&str>::new(), "{name}");
    }
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn data_are_opened_with_the_version_that_made_them() {
    let folder = folder();
    let (data, newer) = (folder.path().join("data"), folder.path().join("newer"));
    let start = |path: &OsStr| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_max-two"));
        command
            .args([
                "--users",
                "100",
                "--replicas",
                "1",
                "--listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(&data)
            .env("SCHEDULE", "0 0 0 1 1 *")
            .env("PATH", path)
            // The versions have to be found.
            .env_remove("POSTGRES_BIN")
            .env_remove("DATABASE_URL");
        Program::spawn(command)
    };
    let path = std::env::var_os("PATH").unwrap();
    let mut program = start(&path);
    ready(&mut program).await;
    assert!(program.stop().await.success());

    // Now a newer version comes first.
    std::fs::create_dir(&newer).unwrap();
    for name in ["initdb", "postgres"] {
        write_script(
            &newer.join(name),
            &format!("#!/bin/sh\necho '{name} (PostgreSQL) 99.1'\n"),
        );
    }
    let paths = std::iter::once(newer).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(paths).unwrap();
    let mut program = start(&path);
    ready(&mut program).await;
    assert!(program.stop().await.success());

    std::fs::write(data.join("cluster/PG_VERSION"), "98\n").unwrap();
    let mut program = start(&path);
    assert_eq!(program.wait().await.code(), Some(1));
    let output = program.output();
    let error = output.lines().last().unwrap();
    for part in ["were made by Postgres 98", "POSTGRES_BIN", "--data-dir"] {
        assert!(error.contains(part), "{output}");
    }
}

#[tokio::test]
async fn with_a_database_url_no_server_starts() {
    let database = TestDatabase::new().await;
    let folder = folder();
    let mut program = launcher(folder.path(), &["--database-url", &database.owner]);
    let client = ready(&mut program).await;
    assert!(client.get("/").await.json()["users"].is_array());
    let password = database.server.lock().await.password().to_owned();
    assert!(
        !program.output().contains(&password),
        "{}",
        program.output()
    );
    let output = program.output();
    let named = output.find("\"event\":\"database_url_used\"").unwrap();
    let line = output[..named].rfind('\n').map_or(0, |end| end + 1);
    let line = output[line..].lines().next().unwrap();
    for part in [
        "127.0.0.1".to_owned(),
        database.server.lock().await.port().to_string(),
        database.name().to_owned(),
    ] {
        assert!(line.contains(&part), "{line}");
    }
    assert!(named < output.find("\"event\":\"seeded\"").unwrap());
    assert_eq!(children(program.id(), "postgres"), []);
    assert!(!folder.path().join("data").exists());
    assert!(program.stop().await.success());
    assert_eq!(
        database.value::<i64>("select count(*) from users").await,
        10_000
    );
}
