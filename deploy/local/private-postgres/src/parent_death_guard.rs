//! Ends a child process when this process dies, even by `SIGKILL`, unless the guard is killed too.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Error;

/// A line on standard input dismisses the guard; the end of the input means that the parent is
/// gone. The wait is bounded, because an orphan that no init process reaps stays a zombie.
const GUARD_SCRIPT: &str = r#"
child=$1 signal=$2 folder=$3
read -r _ && exit
kill -s "$signal" "$child"
tries=0
while kill -0 "$child" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -z "$folder" ] || rm -rf -- "$folder"
"#;

/// Sends a signal to a child process when this process ends, in whatever way.
///
/// A shell reads from a pipe, which the kernel closes when this process ends. (The kernel's own
/// signal at a parent's death is sent when the *thread* that started the child ends.) Dropping the
/// guard also sends the signal; [`ParentDeathGuard::dismiss`] ends the guard without it.
#[derive(Debug)]
pub struct ParentDeathGuard(Child);

impl ParentDeathGuard {
    /// Guards the process with this id: it will get `signal` (a name such as `INT`). When it has
    /// ended, `folder` is removed.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn new(process: u32, signal: &str, folder: Option<&Path>) -> io::Result<Self> {
        Command::new("sh")
            .args(["-c", GUARD_SCRIPT, "parent-death-guard"])
            .args([&process.to_string(), signal])
            .arg(folder.map_or(OsStr::new(""), Path::as_os_str))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // A Ctrl-C in the terminal must not end the guard before its process.
            .process_group(0)
            .spawn()
            .map(Self)
    }

    /// Ends the guard without a signal. Call it once the process has ended, before its id can be
    /// reused.
    pub fn dismiss(mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            // It fails when the guard has ended already.
            let _ = stdin.write_all(b"dismissed\n");
        }
        let _ = self.0.wait();
    }
}

/// Runs a program and waits for its end. If this process dies meanwhile, the program is ended.
///
/// # Errors
/// What it printed on standard error, in one line.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let name = command.get_program().display().to_string();
    let failed = |error: io::Error| Error(format!("{name} can't be run: {error}"));
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let guard = ParentDeathGuard::new(process.id(), "TERM", None).map_err(failed)?;
    let output = process.wait_with_output().map_err(failed)?;
    guard.dismiss();
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    // The first lines of npm say why; a trace and advice follow.
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.is_empty())
        .take(4)
        .collect();
    Err(Error(format!(
        "{name}, {}: {}",
        output.status,
        lines.join("; ")
    )))
}
