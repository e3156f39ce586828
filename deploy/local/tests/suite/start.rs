//! What a start shows and leaves: from an empty folder, from the data of an earlier start, or with
//! `DATABASE_URL`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use shared::db::Database;
use testkit::{TestDatabase, TestProgram};

use crate::service::EXECUTABLE;
use crate::{child, children, fake_postgres, folder, launcher, ready, start};

/// The owner's URL stands in a file for the owner of the file alone, and the password nowhere else.
async fn assert_url_file(program: &TestProgram, folder: &Path) {
    let file = folder.canonicalize().unwrap().join("database-url");
    let url = fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    let database = Database::parse(url.trim_end(), "test").unwrap();
    database.connect().await.unwrap();
    let output = program.output();
    let argument = (output.lines())
        .find_map(|line| line.strip_prefix("Its database: psql "))
        .unwrap_or_else(|| panic!("no command in {output}"));
    let printed = Command::new("bash")
        .args(["-c", &format!("printf %s {argument}")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), url.trim_end());
    let password = fs::read_to_string(folder.join("password")).unwrap();
    assert!(!output.contains(&password), "{output}");
}

/// With a strict umask, and in a folder whose path holds a byte that is not UTF-8.
#[tokio::test]
async fn it_starts_in_an_empty_folder_stops_in_order_and_starts_again() {
    let folder = folder();
    let strange = folder.path().join(OsStr::from_bytes(b"strange \xff'"));
    let data = strange.join("data");
    let start_with = |environment| {
        let script = format!("umask 077; {environment} exec \"$0\"");
        start("sh", &["-c", &script, EXECUTABLE], &data)
    };
    let mut program = start_with("REPLICAS=2");
    let client = ready(&mut program).await;
    let first = client.get("/").await.json();
    assert_eq!(first["timestamp"], serde_json::Value::Null);
    let second = client.get("/").await.json();
    assert_eq!(second["users"], first["users"]);
    assert!(second["timestamp"].is_string());
    assert_url_file(&program, &data).await;
    let processes: Vec<_> = ["api", "worker", "postgres"]
        .iter()
        .flat_map(|name| children(program.id(), name))
        .collect();
    assert_eq!(processes.len(), 4, "two replicas, one worker, one server");

    // As when a supervisor stops its process group and then each process: that is one stop.
    program.signal(Signal::SIGTERM);
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
    assert!(position("api 2 has stopped") < position("worker 1 has stopped"));
    assert!(position("worker 1 has stopped") < position("Postgres has stopped"));

    // The data are kept: no `null` again, and no user to add. Nothing of another server's
    // environment has an effect.
    let foreign = "PGSSLMODE=require PGOPTIONS=-cno_such_setting=1 PGHOST=nowhere";
    let mut program = start_with(foreign);
    let client = ready(&mut program).await;
    assert_eq!(program.field("added").await, 0);
    let third = client.get("/").await.json();
    assert_eq!(third["users"], first["users"]);
    assert!(third["timestamp"].is_string());
    assert_url_file(&program, &data).await;
    for name in ["api", "worker", "postgres"] {
        let process = child(program.id(), name);
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
        let variables = environment.split(|byte| *byte == 0);
        let mut foreign = variables.filter(|variable| variable.starts_with(b"PG"));
        assert_eq!(foreign.next(), None, "{name}");
    }
    assert!(program.stop().await.success());
}

/// `script` runs it in a terminal of its own.
#[tokio::test]
async fn a_person_at_a_terminal_sees_each_step_and_how_to_go_on() {
    let folder = folder();
    let data = folder.path().join("data");
    let command = format!("exec {EXECUTABLE}");
    let mut program = start("script", &["-qec", &command, "/dev/null"], &data);
    program.wait_for_output("Its database: ").await;
    kill(child(program.id(), "max-two"), Signal::SIGINT).unwrap();
    assert!(program.wait().await.success(), "{}", program.output());
    let output = program.output();
    let mut rest = &*output;
    let next_start = format!("The next start goes on with the data in {}", data.display());
    for line in [
        "bin/postgres on ",
        "10,000 of 10,000 users",
        "starting the replicas",
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
    let password = fs::read_to_string(data.join("password")).unwrap();
    for operators in ["event", "admin", "{\"", &password] {
        assert!(!output.contains(operators), "{operators} is in {output}");
    }
}

#[tokio::test]
async fn data_are_opened_with_the_version_that_made_them() {
    let folder = folder();
    let data = folder.path().join("data");
    let path = std::env::var("PATH").unwrap();
    let fake = |name, script| fake_postgres(&folder.path().join(name), script);
    // On PATH, a newer one comes first, or one that can't be run and one that is too old.
    let newer = fake("newer", "echo 'postgres (PostgreSQL) 99.1'");
    let shim = fake("shim", "echo 'no version is set' >&2; exit 126");
    let older = fake("older", "echo 'postgres (PostgreSQL) 13.20'");
    let start = |first: &str| {
        let path = format!("PATH={first}:{path}");
        // The versions have to be found.
        let arguments = ["-u", "POSTGRES_BIN", &path, EXECUTABLE];
        start("env", &arguments, &data)
    };
    for first in [format!("{shim}:{older}"), newer.clone()] {
        let mut program = start(&first);
        ready(&mut program).await;
        assert!(program.stop().await.success());
    }
    fs::write(data.join("cluster/PG_VERSION"), "98\n").unwrap();
    let mut program = start(&newer);
    assert_eq!(program.wait().await.code(), Some(1));
    let output = program.output();
    let error = output.lines().last().unwrap();
    for part in ["made by Postgres 98", "POSTGRES_BIN", "--data-dir"] {
        assert!(error.contains(part), "{output}");
    }
}

#[tokio::test]
async fn with_a_database_url_no_server_starts() {
    let database = TestDatabase::with_users(10).await;
    // The round of the latest tick is done, but not for the users that are added.
    database
        .insert_round("date_trunc('year', now(), 'UTC')", "now()")
        .await;
    let folder = folder();
    let mut program = launcher(folder.path(), &["--database-url", &database.owner_url]);
    let client = ready(&mut program).await;
    assert!(client.get("/").await.json()["users"].is_array());
    let server = database.server.lock().await;
    let output = program.output();
    assert!(!output.contains(server.password()), "{output}");
    // It says first which database it is about to migrate.
    let first = output.lines().next().unwrap();
    let port = server.port().to_string();
    for part in ["DATABASE_URL", "127.0.0.1", &port, &database.name] {
        assert!(first.contains(part), "{first}");
    }
    drop(server);
    assert_eq!(children(program.id(), "postgres"), []);
    assert!(!folder.path().join("data").exists());
    assert!(program.stop().await.success());
    let are_renewed = "select count(*) = 10000 and min(updated_at) > min(inserted_at) from users";
    assert!(database.value::<bool>(are_renewed).await);
}
