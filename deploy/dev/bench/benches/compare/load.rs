//! Load, by wrk.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// Has wrk print what it measured as one line of JSON.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/report.lua");

/// What wrk saw. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Answers that were no success, and connections that failed or waited too long.
    pub(crate) errors: f64,
}

impl Load {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// Asks over so many connections for so many seconds, each anew as soon as it has its answer.
pub(crate) async fn load(
    address: SocketAddr,
    connections: usize,
    seconds: u64,
) -> anyhow::Result<Load> {
    let output = Command::new("wrk")
        .arg(format!("--threads={}", connections.min(2)))
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={seconds}s"))
        .args(["--timeout=10s", "--script", SCRIPT])
        .arg(format!("http://{address}/"))
        .stdin(Stdio::null())
        .output()
        .await
        .context("wrk is missing: apt-get install -y wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{'));
    let load: Load = line
        .and_then(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(load.requests > 0.0, "nothing was answered: {text}");
    Ok(load)
}
