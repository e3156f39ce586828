//! Requests without rounds: Max Two, the upper limit and other ways, by number of connections.

use std::collections::HashMap;
use std::path::Path;

use crate::contestant::Contestant;
use crate::env::{Env, Servers, superuser_url};
use crate::load::{self, LoadResult};
use crate::machine::{CpuUsage, Usage};
use crate::names::{self, Name};
use crate::plot::{Axis, Line, Plot};
use crate::report::{Bound, ERRORS, Report, Table};
use crate::samples::{Samples, Unit};
use crate::{Scale, shuffled};

/// The shortest durable statement that updates the row that all queries update.
pub(crate) const BARE_UPDATE: &str = "update last_query set queried_at = clock_timestamp();";
/// With this minimum, about half of the users qualify.
const MINIMUM: i64 = 50;

const BARE_WARP: usize = 0;
const MAX_TWO: usize = 1;
const NOT_DURABLE: usize = 2;
const MESSAGE_PER_REQUEST: usize = 3;
const SEARCH_PER_REQUEST: usize = 4;
/// Only where there is one.
const BASELINE: usize = 5;
const NAMES: [Name; 6] = [
    names::BARE_WARP,
    names::MAX_TWO,
    names::NOT_DURABLE,
    names::MESSAGE_PER_REQUEST,
    names::SEARCH_PER_REQUEST,
    names::BASELINE,
];
/// The numbers of connections that goals are about. A short run measures only these.
const GOAL_CONNECTIONS: [usize; 3] = [1, 64, 512];

/// One measurement of a contestant.
pub(crate) struct Measurement {
    pub(crate) load: LoadResult,
    /// Microseconds of CPU time for each request.
    pub(crate) replicas_cpu: f64,
    pub(crate) postgres_cpu: f64,
    /// How much of the machine's CPU time nobody used, in percent.
    pub(crate) idle: f64,
    /// Memory of the largest replica at the end of the load.
    megabytes: f64,
}

/// All measurements, by contestant and number of connections.
#[derive(Default)]
struct Measurements(HashMap<(usize, usize), Vec<Measurement>>);

/// Measures all contestants at all numbers of connections.
pub(crate) async fn compare(
    env: &Env,
    scale: Scale,
    baseline: Option<&Path>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let connection_counts: &[usize] = if scale.full {
        &[1, 16, 64, 256, 512, 2048]
    } else {
        &GOAL_CONNECTIONS
    };
    env.run_round(Some(MINIMUM)).await?;
    let superuser_url = superuser_url(&env.database).await;
    let mut measurements = Measurements::default();
    let mut bare_update = Samples::default();
    for _ in 0..scale.repetitions {
        // New processes: a process keeps memory from earlier, larger numbers of connections.
        let contestants = start_contestants(env, baseline).await;
        let bare = env.run_pgbench(BARE_UPDATE, &superuser_url, scale.load_seconds);
        bare_update.push(bare.await?);
        for &connections in connection_counts {
            for contestant in shuffled(contestants.len()) {
                let servers = &contestants[contestant];
                let measurement = measure(env, servers, connections, scale.load_seconds).await?;
                let key = (contestant, connections);
                measurements.0.entry(key).or_default().push(measurement);
            }
        }
    }
    for &connections in connection_counts {
        let table = measurements.table(connections);
        if GOAL_CONNECTIONS.contains(&connections) {
            report.table(table);
        } else {
            report.unrecorded_table(table);
        }
    }
    measurements.goals(report);
    let latency = |contestant| measurements.samples(contestant, 1, |of| of.load.mean);
    let limit = latency(BARE_WARP).plus(&bare_update);
    report
        .goal(
            "mean latency at 1 connection ÷ bare warp plus a bare durable UPDATE in pgbench",
            Bound::AtMost(1.15),
            Unit::Ratio,
            latency(MAX_TWO).ratio_to(&limit),
        )
        .reference("the UPDATE alone", bare_update.ratio_to(&limit));
    report.plot(measurements.plot(connection_counts));
    Ok(())
}

/// In the order of [`NAMES`].
async fn start_contestants(env: &Env, baseline: Option<&Path>) -> Vec<Servers> {
    let not_durable = format!("{}&options[synchronous_commit]=off", env.database.api);
    let mut contestants = vec![
        env.start_contestant(Contestant::BareWarp).await,
        env.start_replica().await,
        env.start_replicas(1, &not_durable).await,
        env.start_contestant(Contestant::MessagePerRequest).await,
        env.start_contestant(Contestant::SearchPerRequest).await,
    ];
    if let Some(executable) = baseline {
        contestants.push(env.start_baseline(executable).await);
    }
    contestants
}

pub(crate) async fn measure(
    env: &Env,
    servers: &Servers,
    connections: usize,
    seconds: u64,
) -> anyhow::Result<Measurement> {
    let usage = async || {
        let postgres = env.postgres_process_ids().await;
        anyhow::Ok((Usage::of(servers.process_ids())?, Usage::of(postgres)?))
    };
    let (replicas, postgres) = usage().await?;
    let cpu = CpuUsage::start()?;
    let load = load::run(servers.address, connections, seconds).await?;
    let idle = cpu.idle_percent();
    let (replicas_after, postgres_after) = usage().await?;
    let microseconds = 1e6 / load.requests;
    Ok(Measurement {
        load,
        replicas_cpu: replicas_after.cpu_seconds_since(&replicas) * microseconds,
        postgres_cpu: postgres_after.cpu_seconds_since(&postgres) * microseconds,
        idle,
        megabytes: replicas_after.max_megabytes(),
    })
}

fn connections_text(connections: usize) -> String {
    if connections == 1 {
        "1 connection".to_owned()
    } else {
        format!("{connections} connections")
    }
}

impl Measurements {
    fn samples(
        &self,
        contestant: usize,
        connections: usize,
        figure: fn(&Measurement) -> f64,
    ) -> Samples {
        self.0[&(contestant, connections)]
            .iter()
            .map(figure)
            .collect()
    }

    fn per_second(&self, contestant: usize, connections: usize) -> Samples {
        self.samples(contestant, connections, |of| of.load.per_second())
    }

    fn table(&self, connections: usize) -> Table {
        let mut table = Table::new(
            format!("Requests over {}", connections_text(connections)),
            "",
            &[
                ("requests/s", Unit::Number),
                ("÷ bare warp", Unit::Ratio),
                ("p50, ms", Unit::Milliseconds),
                ("p99, ms", Unit::Milliseconds),
                ("replica CPU, µs/request", Unit::Microseconds),
                ("Postgres CPU, µs/request", Unit::Microseconds),
            ],
            &[
                ("p99.9, ms", Unit::Milliseconds),
                ("MB per replica", Unit::Megabytes),
                ERRORS,
            ],
        );
        let bare_warp = self.per_second(BARE_WARP, connections);
        for (contestant, name) in NAMES.into_iter().enumerate() {
            if !self.0.contains_key(&(contestant, connections)) {
                continue;
            }
            let per_second = self.per_second(contestant, connections);
            let ratio = per_second.ratio_to(&bare_warp);
            let samples = |figure| self.samples(contestant, connections, figure);
            let figures = vec![
                per_second,
                ratio,
                samples(|of| of.load.p50),
                samples(|of| of.load.p99),
                samples(|of| of.replicas_cpu),
                samples(|of| of.postgres_cpu),
                samples(|of| of.load.p999),
                samples(|of| of.megabytes),
                samples(|of| of.load.errors),
            ];
            table.row(name.short, figures);
        }
        table
    }

    fn goals(&self, report: &mut Report) {
        let ratio = |this, that, connections| {
            let that = self.per_second(that, connections);
            self.per_second(this, connections).ratio_to(&that)
        };
        for (name, connections, other, least, reference_name, reference) in [
            (
                "requests/s at 64 connections ÷ bare warp",
                64,
                BARE_WARP,
                0.55,
                "not durable",
                ratio(NOT_DURABLE, BARE_WARP, 64),
            ),
            (
                "requests/s at 64 connections ÷ message per request",
                64,
                MESSAGE_PER_REQUEST,
                20.0,
                "bare warp",
                ratio(BARE_WARP, MESSAGE_PER_REQUEST, 64),
            ),
            (
                // Less work: no commit waits for the disk.
                "requests/s at 512 connections ÷ not durable",
                512,
                NOT_DURABLE,
                0.90,
                "bare warp",
                ratio(BARE_WARP, NOT_DURABLE, 512),
            ),
            (
                "requests/s at 512 connections ÷ message per request",
                512,
                MESSAGE_PER_REQUEST,
                35.0,
                "bare warp",
                ratio(BARE_WARP, MESSAGE_PER_REQUEST, 512),
            ),
        ] {
            let samples = ratio(MAX_TWO, other, connections);
            report
                .goal(name, Bound::AtLeast(least), Unit::Ratio, samples)
                .reference(reference_name, reference);
        }
        if self.0.contains_key(&(BASELINE, 1)) {
            for (connections, least) in [(1, 0.95), (64, 0.97), (512, 0.97)] {
                let name = format!("requests/s at {} ÷ baseline", connections_text(connections));
                let samples = ratio(MAX_TWO, BASELINE, connections);
                report.goal(name, Bound::AtLeast(least), Unit::Ratio, samples);
            }
        }
        report.goal(
            "memory of a replica at 512 connections, MB",
            Bound::AtMost(40.0),
            Unit::Megabytes,
            self.samples(MAX_TWO, 512, |of| of.megabytes),
        );
    }

    #[allow(clippy::cast_precision_loss, reason = "a few thousand connections")]
    fn plot(&self, connection_counts: &[usize]) -> Plot {
        let line = |contestant: usize| {
            let point = |&connections: &usize| {
                let per_second = self.per_second(contestant, connections);
                (connections as f64, per_second.median())
            };
            Line {
                name: NAMES[contestant].long.to_owned(),
                points: connection_counts.iter().map(point).collect(),
            }
        };
        Plot {
            file: "requests.svg",
            title: "Throughput by number of connections",
            x: Axis {
                label: "connections",
                logarithmic: true,
            },
            y: Axis {
                label: "requests per second",
                logarithmic: true,
            },
            lines: [
                BARE_WARP,
                MAX_TWO,
                NOT_DURABLE,
                MESSAGE_PER_REQUEST,
                SEARCH_PER_REQUEST,
            ]
            .map(line)
            .into(),
        }
    }
}
