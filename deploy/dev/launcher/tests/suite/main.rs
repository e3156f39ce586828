//! The launcher, from an empty folder to an answered query and a clean stop.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod settings;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::Binaries;
use shared::db::{Database, close};
use tempfile::TempDir;
use testkit::{Client, Program, TEST_TIMEOUT, TestDatabase, eventually, free_address};

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

/// Starts the launcher in `folder`, with few users and one tick a year.
fn launcher(folder: &Path, arguments: &[&str]) -> Program {
    launcher_in(&[], folder, arguments)
}

/// The same with more variables in its environment.
fn launcher_in(environment: &[(&str, &str)], folder: &Path, arguments: &[&str]) -> Program {
    let directory = folder.join("data");
    let mut all = vec![
        "--users",
        "10000",
        "--data-dir",
        directory.to_str().unwrap(),
    ];
    if !arguments.contains(&"--listen") {
        all.extend(["--listen", "127.0.0.1:0"]);
    }
    all.extend(arguments);
    Program::start(
        env!("CARGO_BIN_EXE_max-two"),
        &all,
        environment
            .iter()
            .copied()
            .chain([("SCHEDULE", "0 0 0 1 1 *")]),
    )
}

/// A folder that the server's account can enter. A shell needs quotes around its name.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("max two ").unwrap();
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    folder
}

/// Waits for the last line of the launcher's start, and returns a client of its replicas.
async fn ready(program: &mut Program) -> Client {
    program.wait_for_output("Its database: ").await;
    let output = program.output();
    let address = output
        .lines()
        .find_map(|line| line.strip_prefix("Max Two is ready: http://"))
        .unwrap();
    Client::new(address.trim_end_matches('/').parse().unwrap())
}

/// The ids of the processes that `parent` has started with this subcommand or program.
fn children(parent: Pid, role: &str) -> Vec<Pid> {
    let output = Command::new("ps")
        .args(["-eo", "pid,ppid,args"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (id, its_parent) = (words.next()?.parse().ok()?, words.next()?);
            let is_child = its_parent == parent.to_string();
            (is_child && words.any(|word| word.ends_with(role))).then_some(Pid::from_raw(id))
        })
        .collect()
}

/// The owner's URL stands in a file for the owner of the file alone, and the password nowhere else.
async fn assert_url_file(program: &Program, directory: &Path) {
    let file = directory.canonicalize().unwrap().join("database-url");
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
    let password = std::fs::read_to_string(directory.join("password")).unwrap();
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
        .flat_map(|role| children(program.id(), role))
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
            panic!("one launcher")
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
    for role in ["api", "worker", "postgres"] {
        let [process] = children(program.id(), role)[..] else {
            panic!("one {role}")
        };
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap();
        let inherited: Vec<_> = environment
            .split(|byte| *byte == 0)
            .filter(|variable| variable.starts_with(b"PG"))
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(inherited, Vec::<&str>::new(), "{role}");
    }
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn a_second_launcher_on_the_same_folder_or_port_is_refused() {
    let folder = folder();
    let mut first = launcher(folder.path(), &["--replicas", "1"]);
    ready(&mut first).await;
    let mut second = launcher(folder.path(), &[]);
    assert_eq!(second.wait().await.code(), Some(1));
    assert!(
        second.output().contains("is in use by another max-two"),
        "{}",
        second.output()
    );

    let address = first
        .output()
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("Max Two is ready: http://")?
                    .trim_end_matches('/')
                    .to_owned(),
            )
        })
        .unwrap();
    let mut third = launcher(&folder.path().join("other"), &["--listen", &address]);
    assert_eq!(third.wait().await.code(), Some(1));
    assert!(
        third
            .output()
            .contains(&format!("LISTEN {address} can't be used")),
        "{}",
        third.output()
    );
    assert!(first.stop().await.success());
}

#[tokio::test]
async fn of_two_launchers_that_start_at_once_on_a_port_one_is_refused() {
    let folder = folder();
    let address = free_address().to_string();
    let arguments = ["--replicas", "1", "--listen", &address];
    let mut first = launcher(&folder.path().join("first"), &arguments);
    let mut second = launcher(&folder.path().join("second"), &arguments);
    let (status, is_first) = tokio::select! {
        status = first.wait() => (status, true),
        status = second.wait() => (status, false),
    };
    assert_eq!(status.code(), Some(1));
    let (refused, mut other) = if is_first {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(refused.output().lines().count(), 1, "{}", refused.output());
    assert!(
        refused
            .output()
            .contains(&format!("LISTEN {address} can't be used")),
        "{}",
        refused.output()
    );
    ready(&mut other).await;
    assert!(other.stop().await.success());
}

#[tokio::test]
async fn a_process_that_dies_is_restarted() {
    let folder = folder();
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    for (role, name) in [
        ("api", "api replica 1 died"),
        ("worker", "worker 1 died"),
        ("postgres", "Postgres died"),
    ] {
        let [process] = children(program.id(), role)[..] else {
            panic!("one {role}")
        };
        kill(process, Signal::SIGKILL).unwrap();
        program.wait_for_output(name).await;
        eventually("it runs again", async || {
            children(program.id(), role).iter().any(|id| *id != process)
        })
        .await;
        eventually("queries are answered", async || {
            client
                .try_get("/")
                .await
                .is_some_and(|reply| reply.status == 200)
        })
        .await;
    }
    assert!(program.stop().await.success());
}

/// A folder of Postgres' programs whose server never becomes ready once `hang` exists in it.
fn binaries_that_hang(folder: &Path) -> PathBuf {
    let real = Binaries::of_environment().unwrap();
    let binaries = folder.join("bin");
    std::fs::create_dir(&binaries).unwrap();
    let hang = binaries.join("hang");
    for (name, first) in [
        ("initdb", String::new()),
        (
            "postgres",
            // A shell's background job ignores SIGQUIT. `sleep` inherits that; Postgres doesn't.
            format!(
                "if [ -e '{}' ]; then\n\
                 env --default-signal true 2>/dev/null && exec env --default-signal=QUIT sleep 600\n\
                 exec sleep 600\nfi",
                hang.display()
            ),
        ),
    ] {
        let script = format!(
            "#!/bin/sh\n{first}\nexec '{}' \"$@\"\n",
            real.program(name).display()
        );
        write_script(&binaries.join(name), &script);
    }
    binaries
}

fn write_script(path: &Path, script: &str) {
    std::fs::write(path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

/// Waits until the server hangs, and stops the launcher with Ctrl-C.
async fn interrupt_hanging_start(mut program: Program) {
    eventually("the server hangs", async || {
        !children(program.id(), "600").is_empty()
    })
    .await;
    let server = children(program.id(), "600")[0];
    program.signal(Signal::SIGINT);
    assert!(program.wait().await.success(), "{}", program.output());
    assert!(kill(server, None).is_err(), "the server is left");
}

#[tokio::test]
async fn ctrl_c_is_heard_while_postgres_starts() {
    let folder = folder();
    let binaries = binaries_that_hang(folder.path());
    std::fs::write(binaries.join("hang"), "").unwrap();
    let arguments = ["--postgres-bin", binaries.to_str().unwrap()];
    interrupt_hanging_start(launcher(folder.path(), &arguments)).await;
}

#[tokio::test]
async fn ctrl_c_is_heard_while_postgres_starts_again() {
    let folder = folder();
    let binaries = binaries_that_hang(folder.path());
    let arguments = [
        "--replicas",
        "1",
        "--postgres-bin",
        binaries.to_str().unwrap(),
    ];
    let mut program = launcher(folder.path(), &arguments);
    ready(&mut program).await;
    std::fs::write(binaries.join("hang"), "").unwrap();
    kill(children(program.id(), "postgres")[0], Signal::SIGKILL).unwrap();
    interrupt_hanging_start(program).await;
}

/// Standard output on a full disk fails like the pipe of `max-two | grep -q "is ready"`.
#[tokio::test]
async fn it_runs_on_when_its_output_cannot_be_written() {
    let folder = folder();
    let data = folder.path().join("data");
    let arguments = [
        "-c",
        "exec \"$0\" \"$@\" >/dev/full",
        env!("CARGO_BIN_EXE_max-two"),
        "--users=1000",
        "--replicas=1",
        "--listen=127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let mut program = Program::start("sh", &arguments, [("SCHEDULE", "0 0 0 1 1 *")]);
    let client = Client::new(program.address("listen").await);
    eventually("queries are answered", async || {
        client
            .try_get("/")
            .await
            .is_some_and(|reply| reply.status == 200)
    })
    .await;
    // It looks after Postgres once it has printed everything.
    for process in children(program.id(), "postgres") {
        kill(process, Signal::SIGKILL).unwrap();
    }
    program.wait_for_output("Postgres died").await;
    assert!(program.stop().await.success());
}

/// As when a supervisor stops its process group and then each process.
#[tokio::test]
async fn one_stop_that_arrives_twice_counts_once() {
    let folder = folder();
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    ready(&mut program).await;
    program.signal(Signal::SIGTERM);
    program.signal(Signal::SIGINT);
    assert!(program.wait().await.success(), "{}", program.output());
    assert!(program.output().contains("Postgres has stopped"));
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
async fn a_killed_launcher_leaves_no_process_and_the_next_one_starts() {
    let folder = folder();
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    client.get("/").await;
    let processes: Vec<_> = ["api", "worker", "postgres"]
        .iter()
        .flat_map(|role| children(program.id(), role))
        .collect();
    program.signal(Signal::SIGKILL);
    program.wait().await;
    eventually("all processes are gone", async || {
        // An orphan that no init process reaps stays a zombie.
        processes.iter().all(|process| {
            std::fs::read_to_string(format!("/proc/{process}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        })
    })
    .await;
    let mut next = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut next).await;
    assert!(client.get("/").await.json()["timestamp"].is_string());
    assert!(next.stop().await.success());
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

#[tokio::test]
async fn a_bad_setting_is_named_before_anything_starts() {
    let folder = folder();
    for (arguments, names) in [
        (&["--replicas", "0"][..], "--replicas"),
        (&["--schedule", "often"], "--schedule"),
        (&["--listen", "4000"], "--listen"),
        (&["--workers", "many"], "--workers"),
    ] {
        let mut program = launcher(folder.path(), arguments);
        assert_eq!(program.wait().await.code(), Some(2), "{}", program.output());
        assert!(program.output().contains(names), "{}", program.output());
        assert_eq!(program.output().lines().count(), 1);
    }
    let mut program = launcher(folder.path(), &["--postgres-bin", "/nowhere"]);
    assert_eq!(program.wait().await.code(), Some(2));
    assert!(
        program.output().contains("POSTGRES_BIN: /nowhere"),
        "{}",
        program.output()
    );
}
