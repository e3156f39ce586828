//! The machine: its description, and the resources that processes use.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use crate::env::Env;

/// Raises the limit of open files as far as allowed, here and in child processes: thousands of
/// connections need it.
pub(crate) fn raise_open_file_limit() -> anyhow::Result<()> {
    let (_, hard_limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard_limit, hard_limit)?;
    Ok(())
}

/// One line for each property of the machine that figures depend on.
pub(crate) async fn describe(env: &Env, baseline: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let system = System::new_with_specifics(RefreshKind::everything())?;
    let processor = system.cpus().first().map_or("unknown", |cpu| cpu.brand());
    let postgres: String = env
        .database
        .value("select current_setting('server_version')")
        .await;
    let wrk = first_line(Command::new("wrk").arg("-v"))
        .context("wrk is missing: apt-get install -y wrk")?;
    let mut properties = vec![
        format!("{}", chrono::Utc::now().format("%Y-%m-%d")),
        "commit ".to_owned()
            + &first_line(Command::new("git").args(["describe", "--always", "--dirty"]))?,
        format!(
            "{} cores ({processor}), {} GiB, shared by the client, the replicas and Postgres",
            system.cpus().len(),
            system.total_memory() >> 30
        ),
        System::long_os_version().unwrap_or_default()
            + ", kernel "
            + &System::kernel_long_version().unwrap_or_default(),
        format!("Postgres {postgres}; fsync on, the launcher's settings"),
        first_line(Command::new("rustc").arg("--version"))?,
        wrk.split(" Copyright")
            .next()
            .unwrap_or_default()
            .to_owned(),
    ];
    if let Some(name) = baseline.and_then(Path::file_name) {
        properties.push(format!("the baseline: {}", name.display()));
    }
    Ok(properties)
}

/// The first line of a program's standard output.
fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The CPU time of the whole machine since it was started.
pub(crate) struct CpuUsage(System);

impl CpuUsage {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut system = System::new_with_specifics(RefreshKind::nothing())?;
        system.refresh_cpu_usage();
        Ok(Self(system))
    }

    /// How much nobody has used, in percent.
    pub(crate) fn idle_percent(mut self) -> f64 {
        self.0.refresh_cpu_usage();
        f64::from(100.0 - self.0.global_cpu_usage())
    }
}

/// The resources that some processes have used.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Milliseconds of CPU time since each process started.
    cpu_time: HashMap<Pid, u64>,
    /// Bytes of resident memory of the largest process.
    max_memory: u64,
}

impl Usage {
    /// The usage of these processes now.
    pub(crate) fn of(processes: impl IntoIterator<Item = i32>) -> anyhow::Result<Self> {
        let processes: Vec<_> = processes
            .into_iter()
            .map(|id| Pid::from_u32(id.cast_unsigned()))
            .collect();
        let mut system = System::new_with_specifics(RefreshKind::nothing())?;
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&processes),
            true,
            ProcessRefreshKind::nothing().with_cpu().with_memory(),
        );
        let mut usage = Self::default();
        for (&id, process) in system.processes() {
            usage.cpu_time.insert(id, process.accumulated_cpu_time());
            usage.max_memory = usage.max_memory.max(process.memory());
        }
        Ok(usage)
    }

    /// Seconds of CPU time since `earlier`. Processes that have ended since then do not count.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the figure is rounded to be read"
    )]
    pub(crate) fn cpu_seconds_since(&self, earlier: &Self) -> f64 {
        let since = |(id, now): (&Pid, &u64)| now - earlier.cpu_time.get(id).unwrap_or(&0);
        self.cpu_time.iter().map(since).sum::<u64>() as f64 / 1e3
    }

    /// Megabytes of resident memory of the largest process.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the figure is rounded to be read"
    )]
    pub(crate) fn max_megabytes(&self) -> f64 {
        self.max_memory as f64 / 1e6
    }
}
