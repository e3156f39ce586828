//! What ends a process when its owner is gone, however the owner went.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Reads a line, which dismisses it, or the end of the pipe, which means that the owner is gone. A process whose parent
/// has died may stay a zombie where nobody reaps it, so waiting for it to vanish has a bound.
const KEEPER: &str = r#"
read -r _ && exit
kill -s "$2" "$1"
tries=0
while kill -0 "$1" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -z "$3" ] || rm -rf -- "$3"
"#;

/// Ties a process to this one: when this process ends in any way, even by `SIGKILL`, the other gets a signal.
///
/// A small shell holds the other end of a pipe, which the kernel closes with its owner. Dropping a guard has the same
/// effect as the owner's end; [`ParentDeathGuard::dismiss`] takes it off.
#[derive(Debug)]
pub struct ParentDeathGuard(Child);

impl ParentDeathGuard {
    /// Ties `process`: it will get `signal` (a name such as `INT`), and when it has ended, `folder` will be removed.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn new(process: u32, signal: &str, folder: Option<&Path>) -> io::Result<Self> {
        Command::new("sh")
            .args([
                "-c",
                KEEPER,
                "parent-death-guard",
                &process.to_string(),
                signal,
            ])
            .arg(folder.map_or(OsStr::new(""), Path::as_os_str))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Away from the terminal's Ctrl-C, which must not end the keeper before the kept.
            .process_group(0)
            .spawn()
            .map(Self)
    }

    /// Takes the guard off. To be called once the process has ended and before its id can be another's.
    pub fn dismiss(mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            // A keeper that is gone needs no dismissal.
            let _ = stdin.write_all(b"dismissed\n");
        }
        let _ = self.0.wait();
    }
}
