//! A server whose parent process was killed: it may still run, and it leaves `postmaster.pid`.
//! Before another one starts in its folder, this waits for its end and removes that file.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::Error;
use crate::cluster::Cluster;
use crate::postmaster::POLL_INTERVAL;

/// How long to wait until the guard of a killed parent has stopped the server that it left behind.
const PREVIOUS_SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(15);

impl Cluster {
    /// Waits for the end of a server whose parent was killed, which the guard may not have stopped
    /// yet. Then no server runs here, since the caller holds the lock of the folder. So this
    /// removes a `postmaster.pid` that is left: Postgres would refuse to start if the process id in
    /// it belongs to another process by now.
    ///
    /// # Errors
    /// [`Error::StillRuns`] when the server does not end in time.
    pub(crate) fn wait_for_previous_server(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PREVIOUS_SERVER_STOP_TIMEOUT;
        while let Some(id) = self.previous_server() {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if Instant::now() > deadline {
                return Err(Error::StillRuns {
                    folder: self.pgdata.clone(),
                    id,
                });
            }
            sleep(POLL_INTERVAL);
        }
        let path = self.pid_file_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("removing", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The process id in `postmaster.pid`, if it is that of a server on this data directory.
    pub(crate) fn previous_server(&self) -> Option<i32> {
        let id = self.pid_file().lines().next()?.parse().ok()?;
        if kill(Pid::from_raw(id), None) == Err(Errno::ESRCH) {
            return None;
        }
        // A server of ours has its data directory as an argument; one that was started by hand may
        // have it only as its working directory.
        let process = Path::new("/proc").join(id.to_string());
        let is_server = match fs::read(process.join("cmdline")) {
            Ok(arguments) => {
                let pgdata = self.pgdata.as_os_str().as_bytes();
                arguments
                    .split(|byte| *byte == 0)
                    .any(|word| word == pgdata)
                    || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == self.pgdata)
            }
            // It may have ended. Without /proc, as on macOS, it may be the server.
            Err(_) => !Path::new("/proc/self").exists(),
        };
        is_server.then_some(id)
    }

    /// The text of `postmaster.pid`; empty when the file is missing.
    pub(crate) fn pid_file(&self) -> String {
        fs::read_to_string(self.pid_file_path()).unwrap_or_default()
    }

    fn pid_file_path(&self) -> PathBuf {
        self.pgdata.join("postmaster.pid")
    }
}
