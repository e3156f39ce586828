//! Fleets of replicas over one database, beside fleets that hold the row of the chain until each
//! commit is durable.

use std::collections::HashMap;

use crate::contestant::Contestant;
use crate::env::{Env, Servers};
use crate::load::LoadResult;
use crate::names::{self, Name};
use crate::plot::{Axis, Line, Plot};
use crate::report::{Bound, ERRORS, Report, Table};
use crate::requests;
use crate::samples::{Samples, Unit};
use crate::{Scale, shuffled};

/// Answers read none of them.
const USERS: i64 = 1_000;
const PLOTTED_CONNECTIONS: usize = 64;
const CONNECTIONS: [usize; 2] = [PLOTTED_CONNECTIONS, 256];
/// There are many measurements.
const REPETITIONS: usize = 3;

pub(crate) const RELEASES_EARLY: usize = 0;
pub(crate) const HOLDS_ROW: usize = 1;
pub(crate) const NAMES: [Name; 2] = [names::MAX_TWO, names::ROW_HELD];

/// One measurement of a fleet.
struct Measurement {
    requests: requests::Measurement,
    /// Of all replicas together. Each message moves the chain once.
    messages_per_second: f64,
}

/// All measurements of one database, by contestant, replicas and connections.
#[derive(Default)]
struct Measurements(HashMap<(usize, usize, usize), Vec<Measurement>>);

/// Measures all fleets, first without a standby and then with a synchronous one.
pub(crate) async fn compare(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let counts: &[usize] = if scale.full {
        &[1, 2, 4, 8, 16, 32]
    } else {
        &[1, 4, 16]
    };
    let env = Env::with_points(USERS).await?;
    let alone = Measurements::of(&env, scale, counts).await?;
    alone.tables("", counts, report);
    let _standby = env.database.standby().await;
    let with_standby = Measurements::of(&env, scale, counts).await?;
    with_standby.tables(", with a synchronous standby", counts, report);
    add_goals(&alone, &with_standby, counts, report);
    report.plot(plot(&alone, &with_standby, counts));
    Ok(())
}

/// Starts replicas of a contestant on one address.
pub(crate) async fn start(env: &Env, contestant: usize, replicas: usize, url: &str) -> Servers {
    if contestant == RELEASES_EARLY {
        env.start_replicas(replicas, url).await
    } else {
        let fleet = env.start_contestants(Contestant::HoldsRow, replicas, url);
        fleet.await
    }
}

async fn measure(
    env: &Env,
    contestant: usize,
    replicas: usize,
    connections: usize,
    seconds: u64,
) -> anyhow::Result<Measurement> {
    let moves_before = count_moves(env).await;
    let servers = start(env, contestant, replicas, &env.database.api).await;
    let requests = requests::measure(env, &servers, connections, seconds).await?;
    for mut program in servers.programs {
        program.stop().await;
    }
    let moves = count_moves(env).await - moves_before;
    Ok(Measurement {
        messages_per_second: moves / requests.load.seconds,
        requests,
    })
}

/// How often the row of the chain was moved. A session counts its moves at its end at the latest.
async fn count_moves(env: &Env) -> f64 {
    let moves = "select n_tup_upd::float8 from pg_stat_user_tables where relname = 'last_query'";
    env.database.value(moves).await
}

impl Measurements {
    async fn of(env: &Env, scale: Scale, counts: &[usize]) -> anyhow::Result<Self> {
        let mut measurements = Self::default();
        for _ in 0..REPETITIONS {
            for &replicas in counts {
                for connections in CONNECTIONS {
                    for contestant in shuffled(NAMES.len()) {
                        let seconds = scale.load_seconds;
                        let measurement =
                            measure(env, contestant, replicas, connections, seconds).await?;
                        let key = (contestant, replicas, connections);
                        measurements.0.entry(key).or_default().push(measurement);
                    }
                }
            }
        }
        Ok(measurements)
    }

    fn samples(
        &self,
        contestant: usize,
        replicas: usize,
        connections: usize,
        figure: impl Fn(&Measurement) -> f64,
    ) -> Samples {
        let measurements = &self.0[&(contestant, replicas, connections)];
        measurements.iter().map(figure).collect()
    }

    /// Of a figure of Max Two to that of the other contestant.
    fn ratio(
        &self,
        replicas: usize,
        connections: usize,
        figure: impl Fn(&Measurement) -> f64 + Copy,
    ) -> Samples {
        let of = |contestant| self.samples(contestant, replicas, connections, figure);
        of(RELEASES_EARLY).ratio_to(&of(HOLDS_ROW))
    }

    fn tables(&self, database: &str, counts: &[usize], report: &mut Report) {
        for connections in CONNECTIONS {
            let mut table = Table::new(
                format!("Replicas over {connections} connections{database}"),
                format!(
                    "{REPETITIONS} times. All replicas, Postgres and the client share the same cores."
                ),
                &[
                    ("requests/s", Unit::Number),
                    ("messages/s", Unit::Number),
                    ("p50, ms", Unit::Milliseconds),
                    ("p99, ms", Unit::Milliseconds),
                    ("Postgres CPU, µs/request", Unit::Microseconds),
                    ("idle CPU", Unit::Percent),
                ],
                &[("replica CPU, µs/request", Unit::Microseconds), ERRORS],
            );
            for &replicas in counts {
                for (contestant, name) in NAMES.into_iter().enumerate() {
                    let samples = |figure: fn(&Measurement) -> f64| {
                        self.samples(contestant, replicas, connections, figure)
                    };
                    let figures = vec![
                        samples(|of| of.requests.load.per_second()),
                        samples(|of| of.messages_per_second),
                        samples(|of| of.requests.load.p50),
                        samples(|of| of.requests.load.p99),
                        samples(|of| of.requests.postgres_cpu),
                        samples(|of| of.requests.idle),
                        samples(|of| of.requests.replicas_cpu),
                        samples(|of| of.requests.load.errors),
                    ];
                    table.row(format!("{replicas}: {}", name.short), figures);
                }
            }
            if connections == PLOTTED_CONNECTIONS {
                report.table(table);
            } else {
                report.unrecorded_table(table);
            }
        }
    }
}

fn add_goals(
    alone: &Measurements,
    with_standby: &Measurements,
    counts: &[usize],
    report: &mut Report,
) {
    let messages = |of: &Measurement| of.messages_per_second;
    let p50 = |of: &Measurement| of.requests.load.p50;
    let load: fn(&Measurement) -> LoadResult = |of| of.requests.load;
    for (measurements, database, least, most) in [
        (alone, "", 2.5, 0.4),
        (with_standby, ", synchronous standby", 3.5, 0.3),
    ] {
        report.goal(
            format!("messages/s of 16 replicas ÷ row held{database}"),
            Bound::AtLeast(least),
            Unit::Ratio,
            measurements.ratio(16, PLOTTED_CONNECTIONS, messages),
        );
        for connections in CONNECTIONS {
            report.goal(
                format!("p50 of 16 replicas at {connections} connections ÷ row held{database}"),
                Bound::AtMost(most),
                Unit::Ratio,
                measurements.ratio(16, connections, p50),
            );
        }
    }
    for &replicas in counts.iter().filter(|count| [2, 4].contains(*count)) {
        for connections in CONNECTIONS {
            let fleet = format!("{replicas} replicas at {connections} connections");
            report.goal(
                format!("requests/s of {fleet} ÷ row held"),
                Bound::AtLeast(1.0),
                Unit::Ratio,
                alone.ratio(replicas, connections, |of| load(of).per_second()),
            );
            report.goal(
                format!("p50 of {fleet} ÷ row held"),
                Bound::AtMost(1.0),
                Unit::Ratio,
                alone.ratio(replicas, connections, p50),
            );
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a few replicas")]
fn plot(alone: &Measurements, with_standby: &Measurements, counts: &[usize]) -> Plot {
    let line = |measurements: &Measurements, contestant: usize, database: &str| {
        let point = |&replicas: &usize| {
            let messages = |of: &Measurement| of.messages_per_second;
            let samples = measurements.samples(contestant, replicas, PLOTTED_CONNECTIONS, messages);
            (replicas as f64, samples.median())
        };
        Line {
            name: format!("{}{database}", NAMES[contestant].long),
            points: counts.iter().map(point).collect(),
        }
    };
    let standby = ", with a synchronous standby";
    Plot {
        file: "replicas.svg",
        title: "Messages of all replicas together, by number of replicas",
        x: Axis {
            label: "replicas",
            logarithmic: true,
        },
        y: Axis {
            label: "messages per second",
            logarithmic: true,
        },
        lines: vec![
            line(alone, RELEASES_EARLY, ""),
            line(alone, HOLDS_ROW, ""),
            line(with_standby, RELEASES_EARLY, standby),
            line(with_standby, HOLDS_ROW, standby),
        ],
    }
}
