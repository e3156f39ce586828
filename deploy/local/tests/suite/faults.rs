//! Processes that die, signals at bad moments, and output that can't be written.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use private_postgres::Binaries;
use testkit::{Client, Program, eventually};

use crate::{children, folder, launcher, ready, write_script};

#[tokio::test]
async fn a_process_that_dies_is_restarted() {
    let folder = folder();
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    for (name, log_line) in [
        ("api", "api replica 1 died"),
        ("worker", "worker 1 died"),
        ("postgres", "Postgres died"),
    ] {
        let [process] = children(program.id(), name)[..] else {
            panic!("not exactly one {name} runs")
        };
        kill(process, Signal::SIGKILL).unwrap();
        program.wait_for_output(log_line).await;
        eventually("it runs again", async || {
            children(program.id(), name).iter().any(|id| *id != process)
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

#[tokio::test]
async fn a_killed_launcher_leaves_no_process_and_the_next_one_starts() {
    let folder = folder();
    let mut program = launcher(folder.path(), &["--replicas", "1"]);
    let client = ready(&mut program).await;
    client.get("/").await;
    let processes: Vec<_> = ["api", "worker", "postgres"]
        .iter()
        .flat_map(|name| children(program.id(), name))
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
                 env --default-signal true 2>/dev/null \
                 && exec env --default-signal=QUIT sleep 600\n\
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
