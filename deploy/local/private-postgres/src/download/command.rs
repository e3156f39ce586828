//! Runs a program of the system to its end, and words its failure in one line.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::ParentDeathGuard;

/// How often to call `poll` while a program runs.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a program to its end, and calls `poll` meanwhile. If this process is killed, the program
/// ends too and `folder` is removed.
pub(super) fn run(
    command: &mut Command,
    folder: Option<&Path>,
    poll: impl Fn(),
) -> Result<Output, String> {
    let name = command.get_program().display().to_string();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("{name} is not installed"),
        _ => format!("{name}: {error}"),
    };
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let guard = ParentDeathGuard::new(process.id(), "TERM", folder).map_err(failed)?;
    while process.try_wait().map_err(failed)?.is_none() {
        poll();
        sleep(POLL_INTERVAL);
    }
    poll();
    guard.dismiss();
    process.wait_with_output().map_err(failed)
}

/// The output of a program that was successful. The error is the first line of its standard error,
/// or its exit status.
pub(super) fn check(output: Output) -> Result<Output, String> {
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first_line = text.trim().lines().next();
    Err(first_line.map_or_else(|| output.status.to_string(), ToOwned::to_owned))
}
