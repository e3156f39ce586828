//! Requests: Max Two against the limit and against other ways, at rest and during rounds; and how soon a replica answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use testkit::free_address;

use crate::contestant::Way;
use crate::load::{Load, load};
use crate::machine::Usage;
use crate::plot::Plot;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::{Running, Stage};
use crate::{Extent, shuffled};

/// The one row that all queries move on, in the shortest form that is as durable.
const BARE_UPDATE: &str = "update last_query set queried_at = clock_timestamp();";
/// Every other user qualifies.
const MINIMUM: i64 = 50;

const BARE: usize = 0;
const MAX_TWO: usize = 1;
const ASYNCHRONOUS: usize = 4;
const EACH: usize = 5;
const SEARCH: usize = 6;
const NAMES: [&str; 7] = [
    "bare warp, static body",
    "Max Two",
    "Max Two, 2 replicas",
    "Max Two, 4 replicas",
    "Max Two, synchronous_commit = off",
    "a durable statement per request, pool of 10",
    "`where points > $1 limit 2` per request, not durable, pool of 10",
];

/// What one turn of a contestant gave.
struct Turn {
    load: Load,
    /// Seconds of processor time for a million requests: of the replicas, and of Postgres.
    replicas_cpu: f64,
    postgres_cpu: f64,
    /// That the greatest replica held at the end.
    megabytes: f64,
}

/// All turns, by contestant and connections.
#[derive(Default)]
struct Turns(HashMap<(usize, usize), Vec<Turn>>);

/// All contestants at all numbers of connections.
pub(crate) async fn compare(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let levels: &[usize] = if extent.full {
        &[1, 16, 64, 256, 512, 2048]
    } else {
        &[1, 64, 512]
    };
    stage.round(Some(MINIMUM)).await?;
    let mut turns = Turns::default();
    let mut bare_update = Runs::default();
    for _ in 0..extent.repetitions {
        // Anew, so that none remembers more connections than it has.
        let contestants = contestants(stage).await;
        bare_update.push(stage.pgbench(BARE_UPDATE, extent.seconds).await?);
        for &connections in levels {
            for contestant in shuffled(contestants.len()) {
                let running = &contestants[contestant];
                let turn = take_turn(stage, running, connections, extent.seconds).await?;
                let key = (contestant, connections);
                turns.0.entry(key).or_default().push(turn);
            }
        }
    }
    for &connections in levels {
        report.table(turns.table(connections));
    }
    turns.goals(report);
    let latency = |contestant| turns.runs(contestant, 1, |turn| turn.load.mean);
    report
        .goal(
            "mean latency at 1 connection, of the bare durable UPDATE in pgbench",
            Wanted::AtMost(1.25),
            Unit::Times,
            latency(MAX_TWO).over(&bare_update),
        )
        .beside(
            "a request to bare warp, and then the UPDATE in pgbench",
            latency(BARE).plus(&bare_update).over(&bare_update),
        );
    report.plot(turns.plot(levels));
    Ok(())
}

/// In the order of their names.
async fn contestants(stage: &Stage) -> [Running; NAMES.len()] {
    [
        stage.contestant(Way::Bare).await,
        stage.replicas(1, true).await,
        stage.replicas(2, true).await,
        stage.replicas(4, true).await,
        stage.replicas(1, false).await,
        stage.contestant(Way::Each).await,
        stage.contestant(Way::Search).await,
    ]
}

impl Turns {
    fn runs(&self, contestant: usize, connections: usize, figure: fn(&Turn) -> f64) -> Runs {
        self.0[&(contestant, connections)]
            .iter()
            .map(figure)
            .collect()
    }

    fn per_second(&self, contestant: usize, connections: usize) -> Runs {
        self.runs(contestant, connections, |turn| turn.load.per_second())
    }

    fn table(&self, connections: usize) -> Table {
        let mut table = Table::new(
            format!("Requests over {connections} connections"),
            "Times in milliseconds, processor time in seconds for a million requests.",
            &[
                ("requests/s", Unit::Number),
                ("of bare warp", Unit::Times),
                ("p50", Unit::Milliseconds),
                ("p99", Unit::Milliseconds),
                ("p99.9", Unit::Milliseconds),
                ("CPU replicas", Unit::Seconds),
                ("CPU Postgres", Unit::Seconds),
                ("MB a replica", Unit::Megabytes),
                ("errors", Unit::Number),
            ],
        );
        let bare = self.per_second(BARE, connections);
        for (contestant, name) in NAMES.into_iter().enumerate() {
            let per_second = self.per_second(contestant, connections);
            let of_bare = per_second.over(&bare);
            let runs = |figure| self.runs(contestant, connections, figure);
            let figures = vec![
                per_second,
                of_bare,
                runs(|turn| turn.load.p50),
                runs(|turn| turn.load.p99),
                runs(|turn| turn.load.p999),
                runs(|turn| turn.replicas_cpu),
                runs(|turn| turn.postgres_cpu),
                runs(|turn| turn.megabytes),
                runs(|turn| turn.load.errors),
            ];
            table.row(name, figures);
        }
        table
    }

    fn goals(&self, report: &mut Report) {
        let of = |this, other, connections| {
            self.per_second(this, connections)
                .over(&self.per_second(other, connections))
        };
        for (what, other, connections, least) in [
            (
                "durable requests/s at 64 connections, of bare warp",
                BARE,
                64,
                0.60,
            ),
            ("…, of one durable statement per request", EACH, 64, 20.0),
            (
                "durable requests/s at 512 connections, of bare warp",
                BARE,
                512,
                0.85,
            ),
            ("…, of one durable statement per request", EACH, 512, 35.0),
        ] {
            let wanted = Wanted::AtLeast(least);
            let goal = report.goal(what, wanted, Unit::Times, of(MAX_TWO, other, connections));
            if other == EACH {
                goal.beside("bare warp", of(BARE, EACH, connections));
            } else {
                let figures = of(ASYNCHRONOUS, BARE, connections);
                goal.beside("without waiting for the disk", figures);
            }
        }
        report.goal(
            "memory of a replica at 512 connections, MB",
            Wanted::AtMost(40.0),
            Unit::Megabytes,
            self.runs(MAX_TWO, 512, |turn| turn.megabytes),
        );
    }

    #[allow(clippy::cast_precision_loss, reason = "a few thousand connections")]
    fn plot(&self, levels: &[usize]) -> Plot {
        let line = |contestant| {
            let point = |&level| (level as f64, self.per_second(contestant, level).median());
            (
                NAMES[contestant].to_owned(),
                levels.iter().map(point).collect(),
            )
        };
        Plot {
            file: "requests.svg",
            title: "Requests per second",
            across: "connections",
            up: "requests/s",
            lines: [BARE, MAX_TWO, ASYNCHRONOUS, EACH, SEARCH].map(line).into(),
            logarithmic: true,
        }
    }
}

async fn take_turn(
    stage: &Stage,
    running: &Running,
    connections: usize,
    seconds: u64,
) -> anyhow::Result<Turn> {
    let look = async || {
        let sessions = stage.sessions().await;
        anyhow::Ok((Usage::of(running.ids())?, Usage::of(sessions)?))
    };
    let (replicas, postgres) = look().await?;
    let load = load(running.address, connections, seconds).await?;
    let (replicas_after, postgres_after) = look().await?;
    let per_million = 1e6 / load.requests;
    Ok(Turn {
        load,
        replicas_cpu: replicas_after.cpu_since(&replicas) * per_million,
        postgres_cpu: postgres_after.cpu_since(&postgres) * per_million,
        megabytes: replicas_after.megabytes(),
    })
}

/// Rounds back to back, against none; and against a loop that does nothing, but keeps a core busy as a round does.
pub(crate) async fn during_rounds(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    const CONNECTIONS: usize = 64;
    let seconds = 3 * extent.seconds;
    stage.warm_up().await?;
    let replica = stage.replicas(1, true).await;
    let ask = || load(replica.address, CONNECTIONS, seconds);
    let [mut rest, mut loops, mut busy] = [const { Vec::new() }; 3];
    let [mut megabytes, mut rounds] = [const { Vec::new() }; 2];
    for _ in 0..extent.repetitions {
        for kind in shuffled(3) {
            match kind {
                0 => rest.push(ask().await?),
                1 => {
                    let _core = BusyCore::new();
                    loops.push(ask().await?);
                }
                _ => {
                    let mut worker = stage.worker();
                    worker.wait_for_output("round done").await;
                    let before = stage.rounds_done().await;
                    busy.push(ask().await?);
                    rounds.push(stage.rounds_done().await - before);
                    megabytes.push(Usage::of([worker.id().as_raw()])?.megabytes());
                    worker.stop().await;
                    // What rounds leave to be written is nobody else's doing.
                    stage.database.run("checkpoint").await;
                }
            }
        }
    }
    let mut table = Table::new(
        "Requests during rounds",
        "64 connections, one replica; a worker whose tick comes every second and who never rests. Milliseconds.",
        &[
            ("rounds meanwhile", Unit::Number),
            ("requests/s", Unit::Number),
            ("p50", Unit::Milliseconds),
            ("p99", Unit::Milliseconds),
            ("p99.9", Unit::Milliseconds),
            ("errors", Unit::Number),
        ],
    );
    let runs =
        |turns: &[Load], figure: fn(&Load) -> f64| turns.iter().map(figure).collect::<Runs>();
    for (name, turns, rounds) in [
        ("at rest", &rest, Runs::from(0.0)),
        ("an empty loop on one core", &loops, Runs::from(0.0)),
        ("rounds back to back", &busy, rounds.into_iter().collect()),
    ] {
        table.row(
            name,
            vec![
                rounds,
                runs(turns, Load::per_second),
                runs(turns, |load| load.p50),
                runs(turns, |load| load.p99),
                runs(turns, |load| load.p999),
                runs(turns, |load| load.errors),
            ],
        );
    }
    report.table(table);
    let p99 = |turns: &[Load]| runs(turns, |load| load.p99);
    report
        .goal(
            "p99 during rounds back to back, of that at rest",
            Wanted::AtMost(1.5),
            Unit::Times,
            p99(&busy).over(&p99(&rest)),
        )
        .beside(
            "an empty loop on one core instead of rounds",
            p99(&loops).over(&p99(&rest)),
        );
    report.goal(
        "memory of a worker, MB",
        Wanted::AtMost(25.0),
        Unit::Megabytes,
        megabytes.into_iter().collect(),
    );
    Ok(())
}

/// Keeps a core busy until it is dropped.
struct BusyCore(Arc<AtomicBool>);

impl BusyCore {
    fn new() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        thread::spawn(move || while !seen.load(Ordering::Relaxed) {});
        Self(over)
    }
}

impl Drop for BusyCore {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From the start of a replica's process to its first answer.
pub(crate) async fn start(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut milliseconds = Runs::default();
    for _ in 0..2 * extent.repetitions {
        let address = free_address();
        let began = Instant::now();
        let mut replica = stage.replica(address, &stage.database.api);
        while !is_answered(address).await {
            sleep(Duration::from_millis(1)).await;
        }
        milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
        replica.stop().await;
    }
    report.goal(
        "from a replica's start to its first answer, ms",
        Wanted::AtMost(100.0),
        Unit::Milliseconds,
        milliseconds,
    );
    Ok(())
}

/// Whether a GET over a new connection is answered with 200.
async fn is_answered(address: std::net::SocketAddr) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    exchange
        .await
        .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}
