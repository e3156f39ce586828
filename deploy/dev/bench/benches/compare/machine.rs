//! The machine: what it is, and what its processes take.

use std::collections::HashMap;
use std::process::Command;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use crate::stage::Stage;

/// Lets this process and those that it starts open as many files as they may: two thousand connections take them.
pub(crate) fn open_many_files() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

/// One line for each thing that the figures depend on.
pub(crate) async fn description(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let system = System::new_with_specifics(RefreshKind::everything())?;
    let processor = system.cpus().first().map_or("unknown", |cpu| cpu.brand());
    let postgres: String = stage.database.value("select version()").await;
    let wrk = first_line(Command::new("wrk").arg("-v"))
        .context("wrk is missing: apt-get install -y wrk")?;
    Ok(vec![
        format!("{}", chrono::Utc::now().format("%Y-%m-%d")),
        format!(
            "{} cores ({processor}), {} GiB, shared by the client, the replicas and Postgres",
            system.cpus().len(),
            system.total_memory() >> 30
        ),
        System::long_os_version().unwrap_or_default()
            + ", kernel "
            + &System::kernel_long_version().unwrap_or_default(),
        format!("{postgres}; fsync on, the launcher's settings"),
        first_line(Command::new("rustc").arg("--version"))?,
        wrk,
    ])
}

/// The first line that a program prints.
fn first_line(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// What some processes have used so far.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Milliseconds of processor time of each.
    cpu: HashMap<Pid, u64>,
    /// Bytes of memory that the greatest of them holds now.
    memory: u64,
}

impl Usage {
    /// Looks at these processes.
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
            usage.cpu.insert(id, process.accumulated_cpu_time());
            usage.memory = usage.memory.max(process.memory());
        }
        Ok(usage)
    }

    /// Seconds of processor time since then; a process that has ended meanwhile does not count.
    #[allow(clippy::cast_precision_loss, reason = "a figure to be read")]
    pub(crate) fn cpu_since(&self, then: &Self) -> f64 {
        let since = |(id, now): (&Pid, &u64)| now - then.cpu.get(id).unwrap_or(&0);
        self.cpu.iter().map(since).sum::<u64>() as f64 / 1e3
    }

    /// Megabytes of memory that the greatest of them holds.
    #[allow(clippy::cast_precision_loss, reason = "a figure to be read")]
    pub(crate) fn megabytes(&self) -> f64 {
        self.memory as f64 / 1e6
    }
}
