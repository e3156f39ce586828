//! The launcher, and the whole service under load and faults.

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

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::{Client, TestProgram};

/// Starts the launcher with its data in `folder`.
fn launcher(folder: &Path, arguments: &[&str]) -> TestProgram {
    start(service::EXECUTABLE, arguments, &folder.join("data"))
}

/// Starts a program that runs the launcher: with few users, one replica, one tick a year, and its
/// data in `data`.
fn start(program: &str, arguments: &[&str], data: &Path) -> TestProgram {
    let environment = [
        ("DATA_DIR", data.as_os_str()),
        ("USERS", "10000".as_ref()),
        ("REPLICAS", "1".as_ref()),
        ("LISTEN", "127.0.0.1:0".as_ref()),
        ("SCHEDULE", "0 0 0 1 1 *".as_ref()),
    ];
    TestProgram::start(program, arguments, environment)
}

/// A folder that the server's account can enter. A shell needs quotes around its name.
fn folder() -> TempDir {
    let folder = TempDir::with_prefix("max two ").unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Waits for the last line of the launcher's start, and returns a client of its replicas.
async fn ready(program: &mut TestProgram) -> Client {
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
    let parent = parent.to_string();
    let output = Command::new("ps")
        .args(["--ppid", &parent, "-o", "pid=,args="])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut children = Vec::new();
    for line in lines.lines() {
        let (id, command) = line.trim().split_once(' ').unwrap();
        if command.split(' ').any(|word| word.ends_with(name)) {
            children.push(Pid::from_raw(id.parse().unwrap()));
        }
    }
    children
}

/// The id of the only such process.
fn child(parent: Pid, name: &str) -> Pid {
    let children = children(parent, name);
    assert_eq!(children.len(), 1, "{name}");
    children[0]
}

/// A folder of Postgres' programs, both of which are this script for `sh`.
fn fake_postgres(folder: &Path, script: &str) -> String {
    fs::create_dir(folder).unwrap();
    for name in ["initdb", "postgres"] {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}
