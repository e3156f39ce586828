//! The launcher, from an empty folder to an answered query and a clean stop.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

mod chain;
mod citus;
mod clock;
mod faults;
mod full_disk;
mod pooler;
mod random_faults;
mod refusals;
mod service;
mod start;

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::{Client, Program};

/// Starts the launcher in `folder`, with few users and one tick a year.
fn launcher(folder: &Path, arguments: &[&str]) -> Program {
    launcher_in(&[], folder, arguments)
}

/// The same with more variables in its environment.
fn launcher_in(environment: &[(&str, &str)], folder: &Path, arguments: &[&str]) -> Program {
    let data = folder.join("data");
    let mut all = vec!["--users", "10000", "--data-dir", data.to_str().unwrap()];
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

/// The ids of the processes that `parent` has started, of this subcommand or program.
fn children(parent: Pid, name: &str) -> Vec<Pid> {
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
            (is_child && words.any(|word| word.ends_with(name))).then_some(Pid::from_raw(id))
        })
        .collect()
}

/// A folder of Postgres' programs, both of which are this script for `sh`.
fn fake_postgres(folder: &Path, script: &str) -> PathBuf {
    std::fs::create_dir(folder).unwrap();
    for name in ["initdb", "postgres"] {
        let program = folder.join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
    }
    folder.to_owned()
}
