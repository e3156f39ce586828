//! Fleets whose database is a network away: under a full load, and under a light one.

use std::collections::HashMap;
use std::time::Duration;

use crate::contestant::Contestant;
use crate::env::{Env, superuser_url};
use crate::load::{self, LoadResult};
use crate::names::{self, Name};
use crate::relay::Relay;
use crate::replicas::{self, RELEASES_EARLY};
use crate::report::{Bound, ERRORS, Report, Table};
use crate::requests::{self, BARE_UPDATE, Measurement};
use crate::samples::{Samples, Unit};
use crate::{Scale, shuffled};

/// Answers read none of them.
const USERS: i64 = 1_000;
/// Of the network, in microseconds.
const ROUND_TRIPS: [u64; 2] = [250, 1_000];
const PING: &str = "select;";
/// There are many measurements.
const REPETITIONS: usize = 3;
const FLEETS: [usize; 2] = [1, 16];
const CONNECTIONS_PER_REPLICA: usize = 16;

const BARE_WARP: usize = 2;
/// The first two in the order of [`replicas::NAMES`].
const NAMES: [Name; 3] = [names::MAX_TWO, names::ROW_HELD, names::BARE_WARP];

const LIGHT_FLEETS: [usize; 2] = [1, 32];
const LIGHT_CONNECTIONS: usize = 32;
/// Of all connections together.
const LIGHT_PER_SECOND: f64 = 100.0;
/// Seconds of light load, relative to those of full load.
const LIGHT_SECONDS_FACTOR: u64 = 7;

pub(crate) async fn compare(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let env = Env::with_points(USERS).await?;
    let round_trips = if scale.full {
        &ROUND_TRIPS[..]
    } else {
        &ROUND_TRIPS[..1]
    };
    compare_full_load(&env, scale, round_trips, "", report).await?;
    if scale.full {
        let _standby = env.database.standby().await;
        let standby = ", with a synchronous standby";
        compare_full_load(&env, scale, round_trips, standby, report).await?;
        compare_light_load(&env, scale, report).await?;
    }
    Ok(())
}

async fn start_relay(env: &Env, round_trip: u64) -> anyhow::Result<Relay> {
    let port = env.database.server.lock().await.port();
    Relay::start(port, Duration::from_micros(round_trip))
}

/// What was measured of fleets across one network.
struct FullLoad {
    round_trip: Samples,
    /// By contestant and number of replicas.
    fleets: HashMap<(usize, usize), Vec<Measurement>>,
}

/// Each replica has its own connections, so a fleet has more load than one replica.
async fn compare_full_load(
    env: &Env,
    scale: Scale,
    round_trips: &[u64],
    standby: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &round_trip in round_trips {
        let relay = start_relay(env, round_trip).await?;
        let measured = FullLoad::measure(env, scale, &relay.url(&env.database.api)).await?;
        let milliseconds = Duration::from_micros(round_trip).as_secs_f64() * 1e3;
        let network = Unit::Milliseconds.text(milliseconds);
        let title = format!("Replicas across a network of {network} ms{standby}");
        let table = measured.table(title);
        if round_trip == ROUND_TRIPS[0] && standby.is_empty() {
            report.table(table);
            let name = format!(
                "p50 of 16 replicas ÷ of one, each with its own {CONNECTIONS_PER_REPLICA} \
                 connections, {network} ms from the database"
            );
            let goal = measured.p50_ratio(RELEASES_EARLY, FLEETS[1]);
            report
                .goal(name, Bound::AtMost(2.0), Unit::Ratio, goal)
                .reference("bare warp", measured.p50_ratio(BARE_WARP, FLEETS[1]));
        } else {
            report.unrecorded_table(table);
        }
    }
    Ok(())
}

impl FullLoad {
    async fn measure(env: &Env, scale: Scale, url: &str) -> anyhow::Result<Self> {
        let mut measured = Self {
            round_trip: Samples::default(),
            fleets: HashMap::new(),
        };
        for _ in 0..REPETITIONS {
            let round_trip = env.run_pgbench(PING, url, 1).await?;
            measured.round_trip.push(round_trip);
            for replicas in FLEETS {
                for contestant in shuffled(NAMES.len()) {
                    let servers = if contestant == BARE_WARP {
                        let warp = Contestant::BareWarp;
                        env.start_contestants(warp, replicas, url).await
                    } else {
                        replicas::start(env, contestant, replicas, url).await
                    };
                    let connections = replicas * CONNECTIONS_PER_REPLICA;
                    let seconds = scale.load_seconds;
                    let fleet = requests::measure(env, &servers, connections, seconds).await?;
                    let fleets = &mut measured.fleets;
                    fleets
                        .entry((contestant, replicas))
                        .or_default()
                        .push(fleet);
                }
            }
        }
        Ok(measured)
    }

    fn samples(
        &self,
        contestant: usize,
        replicas: usize,
        figure: fn(&Measurement) -> f64,
    ) -> Samples {
        let measurements = &self.fleets[&(contestant, replicas)];
        measurements.iter().map(figure).collect()
    }

    /// Of a fleet's p50 to that of one replica.
    fn p50_ratio(&self, contestant: usize, replicas: usize) -> Samples {
        let p50 = |replicas| self.samples(contestant, replicas, |of| of.load.p50);
        p50(replicas).ratio_to(&p50(FLEETS[0]))
    }

    fn table(&self, title: String) -> Table {
        let mut table = Table::new(
            title,
            format!(
                "{REPETITIONS} times, {CONNECTIONS_PER_REPLICA} connections for each replica. A \
                 round trip to the database took {} ms in pgbench. All processes share the same \
                 cores.",
                self.round_trip.text(Unit::Milliseconds)
            ),
            &[
                ("requests/s", Unit::Number),
                ("p50, ms", Unit::Milliseconds),
                ("÷ one replica", Unit::Ratio),
                ("p99, ms", Unit::Milliseconds),
                ("idle CPU", Unit::Percent),
            ],
            &[ERRORS],
        );
        for replicas in FLEETS {
            for (contestant, name) in NAMES.into_iter().enumerate() {
                let samples = |figure| self.samples(contestant, replicas, figure);
                let figures = vec![
                    samples(|of| of.load.per_second()),
                    samples(|of| of.load.p50),
                    self.p50_ratio(contestant, replicas),
                    samples(|of| of.load.p99),
                    samples(|of| of.idle),
                    samples(|of| of.load.errors),
                ];
                table.row(format!("{replicas}: {}", name.short), figures);
            }
        }
        table
    }
}

/// What was measured of fleets in which hardly two queries meet, with a synchronous standby.
struct LightLoad {
    round_trip: Samples,
    disk_write: Samples,
    /// By contestant and number of replicas.
    loads: HashMap<(usize, usize), Vec<LoadResult>>,
}

async fn compare_light_load(env: &Env, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let measured = LightLoad::measure(env, scale).await?;
    report.unrecorded_table(measured.table());
    let p99 = |replicas| measured.samples(RELEASES_EARLY, replicas, |load| load.p99);
    let [one, many] = LIGHT_FLEETS;
    let allowed = measured.round_trip.scaled(3.0).plus(&measured.disk_write);
    report.goal(
        "light load, synchronous standby: how much p99 of 32 replicas is above that of one ÷ \
         three round trips and a disk write",
        Bound::AtMost(1.0),
        Unit::Ratio,
        p99(many).minus(&p99(one)).ratio_to(&allowed),
    );
    Ok(())
}

impl LightLoad {
    async fn measure(env: &Env, scale: Scale) -> anyhow::Result<Self> {
        let relay = start_relay(env, ROUND_TRIPS[0]).await?;
        let url = relay.url(&env.database.api);
        let superuser_url = superuser_url(&env.database).await;
        let mut measured = Self {
            round_trip: Samples::default(),
            disk_write: Samples::default(),
            loads: HashMap::new(),
        };
        for _ in 0..scale.repetitions {
            measured
                .round_trip
                .push(env.run_pgbench(PING, &url, 1).await?);
            let update = async |commit: &str| {
                let url = format!("{superuser_url}&options=-csynchronous_commit%3D{commit}");
                env.run_pgbench(BARE_UPDATE, &url, 1).await
            };
            let disk_write = update("local").await? - update("off").await?;
            measured.disk_write.push(disk_write);
            for replicas in LIGHT_FLEETS {
                for contestant in shuffled(replicas::NAMES.len()) {
                    let servers = replicas::start(env, contestant, replicas, &url).await;
                    let load = load::run_light(
                        servers.address,
                        LIGHT_CONNECTIONS,
                        LIGHT_PER_SECOND,
                        LIGHT_SECONDS_FACTOR * scale.load_seconds,
                    );
                    let loads = measured.loads.entry((contestant, replicas)).or_default();
                    loads.push(load.await?);
                }
            }
        }
        Ok(measured)
    }

    fn samples(
        &self,
        contestant: usize,
        replicas: usize,
        figure: fn(&LoadResult) -> f64,
    ) -> Samples {
        let loads = &self.loads[&(contestant, replicas)];
        loads.iter().map(figure).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            "Replicas under a light load, with a synchronous standby",
            format!(
                "{LIGHT_PER_SECOND} requests/s of all connections together. A round trip to the \
                 database took {} ms in pgbench, and a disk write {} ms.",
                self.round_trip.text(Unit::Milliseconds),
                self.disk_write.text(Unit::Milliseconds)
            ),
            &[
                ("requests/s", Unit::Number),
                ("p50, ms", Unit::Milliseconds),
                ("p99, ms", Unit::Milliseconds),
            ],
            &[ERRORS],
        );
        for replicas in LIGHT_FLEETS {
            for (contestant, name) in replicas::NAMES.into_iter().enumerate() {
                let samples = |figure| self.samples(contestant, replicas, figure);
                let figures = vec![
                    samples(LoadResult::per_second),
                    samples(|load| load.p50),
                    samples(|load| load.p99),
                    samples(|load| load.errors),
                ];
                table.row(format!("{replicas}: {}", name.short), figures);
            }
        }
        table
    }
}
