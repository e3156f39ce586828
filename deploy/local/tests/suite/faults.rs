//! Processes that die, signals at bad moments, and output that can't be written.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::Binaries;
use testkit::{Client, TestProgram, eventually};
use tokio::process::Command;

use crate::service::EXECUTABLE;
use crate::{child, children, fake_postgres, folder, launcher, ready, start};

/// Its standard output is on a full disk, which fails like the pipe of `max-two | grep -q ready`.
#[tokio::test]
async fn a_process_that_dies_is_restarted_though_nothing_can_be_printed() {
    let folder = folder();
    let arguments = ["-c", "exec \"$0\" >/dev/full", EXECUTABLE];
    let mut program = start("sh", &arguments, &folder.path().join("data"));
    let client = Client::new(program.address("listen").await);
    for (name, log_line) in [
        ("api", "api 1 died"),
        ("worker", "worker 1 died"),
        // It looks after Postgres once it has printed everything.
        ("postgres", "Postgres died"),
    ] {
        let process = child(program.id(), name);
        kill(process, Signal::SIGKILL).unwrap();
        program.wait_for_output(log_line).await;
        eventually("it runs again, and queries are answered", async || {
            let reply = client.try_get("/").await;
            children(program.id(), name).iter().any(|id| *id != process)
                && reply.is_some_and(|reply| reply.status == 200)
        })
        .await;
    }
    assert!(program.stop().await.success());
}

#[tokio::test]
async fn a_killed_launcher_leaves_no_process_and_the_next_one_starts() {
    let folder = folder();
    let mut program = launcher(folder.path(), &[]);
    let client = ready(&mut program).await;
    client.get("/").await;
    let cluster = folder.path().join("data/cluster");
    let pid_file = fs::read_to_string(cluster.join("postmaster.pid")).unwrap();
    let processes: Vec<_> = ["api", "worker", "postgres"]
        .iter()
        .flat_map(|name| children(program.id(), name))
        .collect();
    program.signal(Signal::SIGKILL);
    program.wait().await;
    // The server may still be stopping. The next one waits for its end.
    let mut next = launcher(folder.path(), &[]);
    let client = ready(&mut next).await;
    assert!(client.get("/").await.json()["timestamp"].is_string());
    // An orphan that no init process reaps stays a zombie.
    let is_gone = |process: &Pid| {
        fs::read_to_string(format!("/proc/{process}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
    };
    let are_gone = async || processes.iter().all(is_gone);
    eventually("all processes are gone", are_gone).await;
    assert!(next.stop().await.success());

    // A server that was killed has left its number, which is that of another process by now.
    // Postgres would take a process of another account for no server.
    let account = cluster.metadata().unwrap().uid();
    let mut sleep = Command::new("sleep");
    sleep.arg("600").uid(account);
    let other = TestProgram::spawn(sleep);
    let (_, rest) = pid_file.split_once('\n').unwrap();
    let pid_file = format!("{}\n{rest}", other.id());
    fs::write(cluster.join("postmaster.pid"), pid_file).unwrap();
    let mut next = launcher(folder.path(), &[]);
    ready(&mut next).await;
    assert!(next.stop().await.success());
}

#[tokio::test]
async fn ctrl_c_is_heard_while_postgres_starts() {
    let folder = folder();
    let real = Binaries::from_env().unwrap();
    // A server that never becomes ready, as during a long recovery. A shell's background job
    // ignores SIGINT. `sleep` inherits that; Postgres doesn't.
    let script = format!(
        "case $* in *min_wal_size*) exec env --default-signal=INT sleep 600;; esac\n\
         exec '{}'/\"${{0##*/}}\" \"$@\"",
        real.program("").display()
    );
    let fake = fake_postgres(&folder.path().join("bin"), &script);
    let mut program = launcher(folder.path(), &["--postgres-bin", &fake]);
    let hangs = async || !children(program.id(), "600").is_empty();
    eventually("the server hangs", hangs).await;
    let server = child(program.id(), "600");
    program.signal(Signal::SIGINT);
    assert!(program.wait().await.success(), "{}", program.output());
    assert!(kill(server, None).is_err(), "the server is left");
}
