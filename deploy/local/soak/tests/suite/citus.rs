//! Users spread over the nodes of a Citus cluster. `POSTGRES_BIN` names the folder of a Postgres'
//! programs with Citus. Each test starts a cluster of its own and sets it up with the operators'
//! script, `deploy/citus/set-up`, with the roles' limits as that leaves them.

mod cluster;
mod load;

use std::time::Duration;

use nix::sys::signal::Signal;
use private_postgres::roles;
use serde_json::Value as Json;
use shared::db::Database;
use shared::domain::last_query::message::{HOLDING_ROW, prepare};
use shared::domain::users;
use testkit::sql::{self, run, value};
use testkit::{Program, eventually};
use tokio::time::sleep;

use cluster::Cluster;
use load::{AUDIT, IS_ONE_CHAIN, Load, assert_in_order};

const USERS: i64 = 100_000;
const ROUNDS: i64 = 10;
/// Longer than each timeout that can end a session, a statement, a commit or an attempt to connect.
const LONGER_THAN_TIMEOUTS: Duration = Duration::from_secs(40);

impl Cluster {
    /// A cluster with users, and an audit of what is chosen and asked.
    async fn with_users(nodes: usize, spare: usize, shards: u16) -> Self {
        let mut cluster = Self::start(nodes, spare, shards).await;
        assert_eq!(
            users::read_layout(cluster.session().await).await.unwrap(),
            users::Layout::Distributed
        );
        let number = USERS.to_string();
        cluster
            .job(roles::OWNER, &["worker", "seed", "--users", &number])
            .await;
        assert_eq!(
            cluster.value::<i64>("select count(*) from users").await,
            USERS
        );
        cluster.run(AUDIT).await;
        // When a test holds commits, replicas do not wait.
        cluster
            .run("alter role max_two_api in database max_two set synchronous_commit = local")
            .await;
        cluster
    }

    /// Asserts that the tables hold everything that one round wrote, and nothing of another.
    async fn assert_one_round(&mut self) {
        let _paused = self.pause_rounds().await;
        let is_whole = format!(
            "select count(*) = {USERS} from users \
             where updated_at = (select max(started_at) from rounds)"
        );
        assert!(self.value::<bool>(&is_whole).await);
        // The chosen users' points are current, and exceed the minimum.
        let choice: Json = self
            .value(
                "select jsonb_build_array( \
                     first_user_id, first_points, second_user_id, second_points \
                 ) \
                 from settings",
            )
            .await;
        for pair in choice.as_array().unwrap().chunks(2) {
            if let [Json::Number(id), Json::Number(points)] = pair {
                let is_current = format!(
                    "select points = {points} and {points} > (select min_points from settings) \
                     from users where id = {id}"
                );
                assert!(self.value::<bool>(&is_current).await, "{choice}");
            }
        }
        let qualifying: i64 = self
            .value("select count(*) from users where points > (select min_points from settings)")
            .await;
        let chosen = choice
            .as_array()
            .unwrap()
            .iter()
            .filter(|value| !value.is_null())
            .count()
            / 2;
        assert_eq!(chosen, usize::try_from(qualifying.min(2)).unwrap());
        // Nothing is left of its commit.
        self.wait_until("select not exists (select from pg_dist_transaction)")
            .await;
    }

    /// Asserts that rounds were done once per tick, one after the other.
    async fn assert_rounds_follow_the_ticks(&mut self) {
        let is_once = "select count(distinct tick_at) = count(*) from rounds where scheduled";
        assert!(self.value::<bool>(is_once).await);
        let is_complete = format!(
            "select min(users_updated) = {USERS} and max(users_updated) = {USERS} from rounds"
        );
        assert!(self.value::<bool>(&is_complete).await);
        let overlapping: i64 = self
            .value(
                "select count(*) from rounds \
                 join rounds as other on other.started_at < rounds.started_at \
                 where other.finished_at > rounds.started_at",
            )
            .await;
        assert_eq!(overlapping, 0);
    }

    async fn assert_a_cooldown_is_kept(&mut self) {
        // A round that was still running at the next tick.
        self.run(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values ( \
                 date_trunc('second', now()) - interval '3 s', true, \
                 now() - interval '2 s', now(), 0 \
             )",
        )
        .await;
        let mut worker = self.worker(&[("COOLDOWN", "1h")]);
        worker.wait_for_event("round_cooling_down").await;
        assert!(worker.stop().await.success(), "{}", worker.output());
        self.run("delete from rounds").await;
    }

    async fn assert_an_answer_reads_the_coordinator_alone(&mut self) {
        prepare(self.session().await).await.unwrap();
        for statement in HOLDING_ROW.split(';') {
            let explain = format!("explain {statement}");
            let plan: Vec<String> = sql::values(self.session().await, &explain).await;
            assert!(
                !plan
                    .iter()
                    .any(|line| line.contains("Citus") || line.contains("users")),
                "{plan:?}"
            );
        }
    }

    /// Ends the load, and asserts that every answer was right.
    async fn assert_no_answer_was_wrong(&mut self, load: Load) {
        let answers = load.stop().await;
        let choices: Json = self
            .value("select jsonb_agg(users order by number) from audit.choices")
            .await;
        for answers in answers {
            assert_in_order(&answers, choices.as_array().unwrap());
        }
        assert!(self.value::<bool>(IS_ONE_CHAIN).await);
    }

    /// Ends the load and the programs, and asserts that every promise was kept.
    async fn stop_and_check(&mut self, load: Load, programs: [Program; 3]) {
        self.assert_no_answer_was_wrong(load).await;
        self.assert_rounds_follow_the_ticks().await;
        for mut program in programs {
            assert!(program.stop().await.success(), "{}", program.output());
        }
    }

    /// The size of every shard, in bytes.
    async fn sizes(&mut self) -> Vec<i64> {
        let _paused = self.pause_rounds().await;
        self.value("select array_agg(shard_size order by shardid) from citus_shards")
            .await
    }

    /// Asserts that no shard has grown by more than the page or two of users whose own page a
    /// checkpoint had pinned. Without pruning it would double in a round.
    async fn assert_no_shard_has_grown(&mut self, before: &[i64]) {
        let after = self.sizes().await;
        assert_eq!(after.len(), before.len());
        let has_grown = |(before, after): (&i64, &i64)| *after > before * 11 / 10;
        assert!(
            !before.iter().zip(&after).any(has_grown),
            "{before:?} became {after:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Postgres with Citus"]
async fn with_users_spread_over_nodes_every_promise_is_kept() {
    let mut cluster = Cluster::with_users(3, 1, 64).await;
    cluster.assert_a_cooldown_is_kept().await;
    cluster.assert_an_answer_reads_the_coordinator_alone().await;

    // From here on two workers run, beside everything that follows.
    let (mut first, mut second) = (cluster.worker(&[]), cluster.worker(&[]));
    let (replica, client) = cluster.replica().await;
    let load = Load::start(&client);
    cluster.wait_for_rounds(ROUNDS).await;
    // The first vacuum adds the visibility map and the free space map.
    cluster.run("vacuum users").await;
    let sizes = cluster.sizes().await;

    // Kill a worker during its round.
    let held = cluster.hold_round_on(0).await;
    for worker in [&mut first, &mut second] {
        worker.signal(Signal::SIGKILL);
        worker.wait().await;
    }
    let (first, second) = (cluster.worker(&[]), cluster.worker(&[]));
    drop(held);
    cluster.wait_for_rounds(2).await;
    cluster.assert_one_round().await;

    // At both ends of the minimum's range, and when no user qualifies.
    for minimum in ["0", "50", "99", "100"] {
        cluster
            .job(roles::WORKER, &["worker", "round", "--min-points", minimum])
            .await;
        cluster.assert_one_round().await;
    }
    cluster.assert_no_shard_has_grown(&sizes).await;

    // A third node, and a rebalance under load.
    cluster.set_up(3).await;
    cluster
        .run("select citus_rebalance_start(shard_transfer_mode => 'block_writes')")
        .await;
    cluster.wait_for_rounds(1).await;
    cluster.run("set statement_timeout = '3min'").await;
    cluster.run("select citus_rebalance_wait()").await;
    let shards: Vec<i64> = cluster
        .value(
            "select array_agg(count order by count) \
             from (select count(*) from citus_shards group by nodeport) as nodes",
        )
        .await;
    assert!(shards.len() == 3 && shards[0] >= 20, "{shards:?}");
    cluster.wait_for_rounds(ROUNDS).await;
    cluster.assert_one_round().await;
    cluster.assert_no_shard_has_grown(&sizes).await;

    load.assert_no_failures();
    cluster.stop_and_check(load, [first, second, replica]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Postgres with Citus"]
async fn servers_of_a_citus_cluster_that_crash_or_stand_still_break_no_promise() {
    let mut cluster = Cluster::with_users(2, 0, 16).await;
    let (first, second) = (cluster.worker(&[]), cluster.worker(&[]));
    let (replica, client) = cluster.replica().await;
    let load = Load::start(&client);
    cluster.wait_for_rounds(2).await;

    // A node crashes in the update.
    let held = cluster.hold_round_on(1).await;
    cluster.crash_node(1);
    drop(held);
    cluster.start_node(1);
    cluster.wait_for_rounds(2).await;
    cluster.assert_one_round().await;

    // A node crashes between the two phases. The round is done without it.
    let before: i64 = cluster.value("select count(*) from rounds").await;
    cluster.hold_round_between_phases().await;
    cluster.crash_node(1);
    cluster.release_round().await;
    cluster
        .wait_until(&format!("select count(*) > {before} from rounds"))
        .await;
    cluster.start_node(1);
    cluster.assert_one_round().await;
    cluster.wait_for_rounds(2).await;

    // A node is slower than the others, by more than a session may be idle in a transaction.
    let stopped = cluster.stop_node(1).await;
    cluster
        .wait_until_node(
            0,
            "select exists ( \
                 select from pg_stat_activity \
                 where usename = 'max_two_worker' and state = 'idle in transaction' \
                   and now() - state_change > interval '9 s' \
             )",
        )
        .await;
    drop(stopped);
    cluster
        .wait_until(
            "select exists (select from rounds where finished_at - started_at > interval '9 s')",
        )
        .await;

    // A node stands still.
    let stopped = cluster.stop_node(1).await;
    sleep(LONGER_THAN_TIMEOUTS).await;
    drop(stopped);
    cluster.wait_for_rounds(2).await;
    cluster.assert_one_round().await;
    load.assert_no_failures();

    // The coordinator crashes in the update.
    let held = cluster.hold_round_on(1).await;
    cluster.crash_coordinator();
    drop(held);
    cluster.wait_for_rounds(2).await;
    cluster.assert_one_round().await;

    // The coordinator crashes between the two phases. It knows that the round is done.
    let before: i64 = cluster.value("select count(*) from rounds").await;
    cluster.hold_round_between_phases().await;
    cluster.crash_coordinator();
    cluster.release_round().await;
    assert!(cluster.value::<i64>("select count(*) from rounds").await > before);
    cluster.assert_one_round().await;
    cluster.wait_for_rounds(2).await;

    eventually("it answers again", async || {
        client
            .try_get("/")
            .await
            .is_some_and(|reply| reply.status == 200)
    })
    .await;
    cluster.stop_and_check(load, [first, second, replica]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Postgres with Citus"]
async fn the_certificate_that_citus_makes_is_refused_with_its_reason() {
    let server = cluster::start_server(&[]);
    let mut session = cluster::connect(&server, server.password(), "postgres").await;
    let library: String = value(&mut session, "show ssl_library").await;
    if library.is_empty() {
        println!("NOT RUN: this Postgres is built without TLS");
        return;
    }
    run(&mut session, "create extension citus").await;
    eventually("Citus has switched TLS on", async || {
        value(
            &mut session,
            "select setting::boolean from pg_settings where name = 'ssl'",
        )
        .await
    })
    .await;
    for mode in ["prefer", "require"] {
        let url = server.url("postgres", "postgres").replace("disable", mode);
        let database = Database::parse(&url, "test").unwrap();
        let error = database.connect(Duration::from_secs(10)).await.unwrap_err();
        assert!(
            error.to_string().contains("X.509 version 1"),
            "{mode}: {error}"
        );
        assert!(!error.is_transient(), "{mode}");
    }
}
