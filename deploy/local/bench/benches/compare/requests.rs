//! Requests: by number of connections, by number of replicas, and during rounds.

use anyhow::ensure;

use crate::figures::{BASELINE, Figures, MAX_TWO, median};
use crate::load;
use crate::plot;
use crate::programs::Servers;
use crate::{Bench, shuffled};

/// Of one replica.
const CONNECTIONS: [u32; 3] = [1, FLEET_CONNECTIONS, 512];
const FLEETS: [usize; 2] = [4, 16];
/// Of all replicas of a fleet together.
const FLEET_CONNECTIONS: u32 = 64;
/// Loads during rounds are longer than others, so that each sees several rounds.
const LONGER: u32 = 3;

const BARE_WARP: &str = "bare warp";
const MESSAGE_PER_REQUEST: &str = "a message per request";
const ONE_REPLICA: &str = "one replica";
const WITHOUT_ROUNDS: &str = "without rounds";

fn requests(replicas: usize, connections: u32) -> String {
    format!("requests/s (replicas: {replicas}, connections: {connections})")
}

/// Measures a turn of requests without rounds.
pub(crate) async fn measure(bench: &Bench, figures: &mut Figures) -> anyhow::Result<()> {
    for connections in CONNECTIONS {
        let figure = requests(1, connections);
        let mut contestants = vec![BARE_WARP, MESSAGE_PER_REQUEST];
        contestants.extend(bench.versions().iter().map(|(version, _)| version));
        for contestant in shuffled(contestants) {
            let servers = start(bench, contestant).await?;
            let load = load::run(servers.address, connections, bench.settings.seconds).await?;
            figures.add(&figure, contestant, load.requests_per_second);
            figures.failed_requests += load.failed_requests;
        }
    }
    let one_replica = requests(1, FLEET_CONNECTIONS);
    for replicas in FLEETS {
        let figure = requests(replicas, FLEET_CONNECTIONS);
        for (version, programs) in shuffled(bench.versions()) {
            let servers = programs.start_replicas(replicas, &bench.database).await;
            let load =
                load::run(servers.address, FLEET_CONNECTIONS, bench.settings.seconds).await?;
            figures.add(&figure, version, load.requests_per_second);
            figures.failed_requests += load.failed_requests;
        }
        if let Some(&value) = figures.values(&one_replica, MAX_TWO).last() {
            figures.add(&figure, ONE_REPLICA, value);
        }
    }
    Ok(())
}

/// Starts one server of a contestant.
async fn start(bench: &Bench, contestant: &str) -> anyhow::Result<Servers> {
    let database = &bench.database;
    match (contestant, &bench.settings.baseline) {
        (BARE_WARP, _) => Servers::start_self(&["bare-warp"]).await,
        (MESSAGE_PER_REQUEST, _) => {
            Servers::start_self(&["message-per-request", &database.api]).await
        }
        (BASELINE, Some(baseline)) => Ok(baseline.start_replicas(1, database).await),
        _ => Ok(bench.programs.start_replicas(1, database).await),
    }
}

/// Measures a turn of requests during rounds, beside requests without rounds.
pub(crate) async fn measure_during_rounds(
    bench: &Bench,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let figure = format!("p99 during rounds, ms (replicas: 1, connections: {FLEET_CONNECTIONS})");
    let seconds = LONGER * bench.settings.seconds;
    let mut contestants = bench.versions();
    contestants.push((WITHOUT_ROUNDS, &bench.programs));
    for (contestant, programs) in shuffled(contestants) {
        let servers = programs.start_replicas(1, &bench.database).await;
        let mut worker = None;
        if contestant != WITHOUT_ROUNDS {
            let worker = worker.insert(programs.start_worker(&bench.database));
            worker.wait_for_event("round_done").await;
        }
        let load = load::run(servers.address, FLEET_CONNECTIONS, seconds).await?;
        figures.add(&figure, contestant, load.p99);
        figures.failed_requests += load.failed_requests;
        if let Some(mut worker) = worker {
            let rounds = worker.count_events("round_done");
            ensure!(
                rounds > 1,
                "no round ended in {seconds} s: give more --seconds"
            );
            worker.stop().await;
        }
        // The next measurement must not pay for the dirty pages of these rounds.
        bench.database.run("checkpoint").await;
    }
    Ok(())
}

/// Requests per second by connections, as SVG.
pub(crate) fn plot(figures: &Figures) -> String {
    let lines = [BARE_WARP, MAX_TWO, MESSAGE_PER_REQUEST].map(|contestant| {
        let point = |connections| {
            let figure = requests(1, connections);
            let per_second = median(figures.values(&figure, contestant));
            (f64::from(connections), per_second)
        };
        (contestant, CONNECTIONS.map(point).to_vec())
    });
    plot::draw(&lines, "connections", "requests/s")
}
