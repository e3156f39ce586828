//! Users spread over the nodes of a Citus cluster. `MAX_TWO_CITUS_URL` is a superuser's URL of a
//! database on a coordinator that knows its nodes. The test drops Max Two's tables there. See
//! deploy/citus/README.md.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use private_postgres::roles;
use serde_json::Value;
use shared::last_query::{ANSWER, Chain};
use shared::users;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, raw_sql};
use testkit::{Client, Program, eventually};

use crate::{EVERY_SECOND, EXECUTABLE};

const USERS: i64 = 100_000;
const ROUNDS: i64 = 10;
/// The password of all roles. The database is for tests only.
const PASSWORD: &str = "citus";
const DISTRIBUTE: &str = include_str!("../../../../citus/distribute.sql");
/// Records every move of the chain, while its row is locked.
const AUDIT: &str = "
    drop schema if exists audit cascade;
    create schema audit;
    create table audit.queries (number bigserial primary key, previous_at timestamptz, queried_at timestamptz);
    create function audit.query() returns trigger language plpgsql security definer as $$
    begin
        insert into audit.queries (previous_at, queried_at) values (new.previous_at, new.queried_at);
        return null;
    end
    $$;
    create trigger audit after update on last_query for each row execute function audit.query();";
const CHAIN_ERRORS: &str = "
    select count(*) from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before from audit.queries
    ) as queries
    where previous_at is distinct from before or queried_at < previous_at";

/// A superuser's session on the cluster's coordinator.
struct Coordinator {
    options: PgConnectOptions,
    session: PgConnection,
}

impl Coordinator {
    /// Creates the roles in an emptied database.
    async fn new() -> Self {
        let url = std::env::var("MAX_TWO_CITUS_URL").expect("MAX_TWO_CITUS_URL is set");
        let options: PgConnectOptions = url.parse().unwrap();
        let session = options.connect().await.unwrap();
        let mut coordinator = Self { options, session };
        let nodes: i64 = coordinator
            .value("select count(*) from citus_get_active_worker_nodes()")
            .await;
        assert!(nodes > 0, "the coordinator knows no nodes: citus_add_node");
        coordinator
            .run("drop table if exists users, settings, rounds, last_query, _sqlx_migrations")
            .await;
        let database = coordinator.options.get_database().unwrap().to_owned();
        roles::create(&mut coordinator.session, PASSWORD, &database)
            .await
            .unwrap();
        coordinator
            .run("grant create on schema public to max_two_owner")
            .await;
        coordinator
    }

    async fn run(&mut self, statements: &str) {
        raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.session)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    async fn value<T>(&mut self, query: &str) -> T
    where
        T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut self.session)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Starts one of the programs with the URL of this role.
    fn program(&self, role: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let url = self.options.clone().username(role).password(PASSWORD);
        let url = url.to_url_lossy();
        let common = [
            ("DATABASE_URL", url.as_str()),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
        ];
        let environment = common.iter().chain(environment).copied();
        Program::start(EXECUTABLE, arguments, environment)
    }

    /// Runs a program to its end, which must be successful.
    async fn job(&self, role: &str, arguments: &[&str]) {
        let mut program = self.program(role, arguments, &[]);
        assert!(program.wait().await.success(), "{}", program.output());
    }

    async fn migrate_and_seed(&mut self) {
        self.job(roles::OWNER, &["worker", "migrate"]).await;
        self.run(DISTRIBUTE).await;
        assert_eq!(
            users::layout(&mut self.session).await.unwrap(),
            users::Layout::Distributed
        );
        roles::grant(&mut self.session).await.unwrap();
        let users = USERS.to_string();
        self.job(roles::OWNER, &["worker", "seed", "--users", &users])
            .await;
        assert_eq!(self.value::<i64>("select count(*) from users").await, USERS);
    }

    fn worker(&self) -> Program {
        let environment = [("SCHEDULE", EVERY_SECOND), ("COOLDOWN", "0s")];
        self.program(roles::WORKER, &["worker"], &environment)
    }

    async fn replica(&self) -> (Program, Client) {
        let environment = [("LISTEN", "127.0.0.1:0"), ("DRAIN_DELAY", "0s")];
        let mut program = self.program(roles::API, &["api"], &environment);
        program.wait_for_event("database_connected").await;
        let client = Client::new(program.address("listen").await);
        (program, client)
    }

    async fn rounds(&mut self) -> i64 {
        self.value("select count(*) from rounds").await
    }

    /// Sends queries until this many more rounds are done, and returns their timestamps in order.
    async fn query_during(&mut self, client: &Client, rounds: i64) -> Vec<Option<String>> {
        let wanted = self.rounds().await + rounds;
        let mut timestamps = Vec::new();
        while self.rounds().await < wanted {
            let reply = client.get("/").await;
            assert_eq!(reply.status, 200);
            let body = reply.json();
            assert!(
                body["users"]
                    .as_array()
                    .is_some_and(|users| users.len() <= 2)
            );
            timestamps.push(body["timestamp"].as_str().map(ToOwned::to_owned));
        }
        timestamps
    }

    /// Asserts that the tables hold everything that one round wrote, and nothing of another.
    async fn assert_one_round(&mut self) {
        let stale = format!(
            "select {USERS} - count(*) from users where updated_at = (select max(started_at) from rounds)"
        );
        assert_eq!(self.value::<i64>(&stale).await, 0);
        // The chosen users' points are current, and exceed the minimum.
        let choice: Value = self
            .value("select jsonb_build_array(first_user_id, first_points, second_user_id, second_points) from settings")
            .await;
        for pair in choice.as_array().unwrap().chunks(2) {
            if let [Value::Number(id), Value::Number(points)] = pair {
                let is_current = format!(
                    "select points = {points} and {points} > (select min_points from settings) from users where id = {id}"
                );
                assert!(self.value::<bool>(&is_current).await, "{choice}");
            }
        }
    }
    /// Once per tick. One after the other, with a cooldown that the database measures.
    async fn assert_rounds_follow_the_ticks(&mut self) {
        let renewed: i64 = self.value("select min(users_updated) from rounds").await;
        assert_eq!(renewed, USERS);
        let ticks: i64 = self
            .value("select count(distinct tick_at) from rounds where scheduled")
            .await;
        assert_eq!(ticks, self.rounds().await);
        let overlapping: i64 = self
            .value("select count(*) from rounds join rounds as other on other.tick_at < rounds.tick_at where other.finished_at > rounds.finished_at")
            .await;
        assert_eq!(overlapping, 0);
        self.run("update rounds set finished_at = tick_at + interval '2 s' where tick_at = (select max(tick_at) from rounds)")
            .await;
        let environment = [("SCHEDULE", EVERY_SECOND), ("COOLDOWN", "1h")];
        let mut worker = self.program(roles::WORKER, &["worker"], &environment);
        worker.wait_for_event("round_cooling_down").await;
        assert!(worker.stop().await.success());
    }

    async fn assert_an_answer_reads_the_coordinator_alone(&mut self) {
        Chain::prepare(&mut self.session).await.unwrap();
        for statement in ANSWER.split(';') {
            let explain = format!("explain {statement}");
            let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(explain))
                .fetch_all(&mut self.session)
                .await
                .unwrap();
            assert!(
                !plan
                    .iter()
                    .any(|line| line.contains("Citus") || line.contains("users")),
                "{plan:?}"
            );
        }
    }

    async fn assert_the_shards_do_not_grow(&mut self) {
        let size = "select sum(citus_relation_size('users'))::bigint";
        let before: i64 = self.value(size).await;
        let mut sizes = BTreeSet::new();
        for _ in 0..ROUNDS {
            self.job(roles::WORKER, &["worker", "round"]).await;
            sizes.insert(self.value::<i64>(size).await);
        }
        assert_eq!(sizes, BTreeSet::from([before]));
    }
}

#[tokio::test]
#[ignore = "needs a Citus coordinator: MAX_TWO_CITUS_URL"]
async fn with_users_spread_over_nodes_every_promise_is_kept() {
    let mut cluster = Coordinator::new().await;
    cluster.migrate_and_seed().await;
    cluster.run(AUDIT).await;

    let (mut first, mut second) = (cluster.worker(), cluster.worker());
    let (mut replica, client) = cluster.replica().await;
    let mut timestamps = cluster.query_during(&client, ROUNDS).await;

    // Kill both kinds of process while they work.
    eventually("a round runs", async || {
        sqlx::query_scalar("select exists (select from pg_stat_activity where query like 'update users%' and state = 'active')")
            .fetch_one(&mut cluster.session)
            .await
            .unwrap()
    })
    .await;
    first.signal(Signal::SIGKILL);
    first.wait().await;
    let mut first = cluster.worker();
    timestamps.extend(cluster.query_during(&client, 2).await);
    replica.signal(Signal::SIGKILL);
    replica.wait().await;
    let (mut replica, client) = cluster.replica().await;
    timestamps.extend(cluster.query_during(&client, 2).await);
    for program in [&mut first, &mut second, &mut replica] {
        assert!(program.stop().await.success(), "{}", program.output());
    }

    // One truth.
    cluster.assert_one_round().await;
    cluster.assert_rounds_follow_the_ticks().await;
    // One chain, and the answers follow it.
    assert_eq!(cluster.value::<i64>(CHAIN_ERRORS).await, 0);
    assert!(timestamps.is_sorted(), "{timestamps:?}");
    // At both ends of the minimum's range, and when no user qualifies.
    for minimum in ["0", "50", "99", "100"] {
        cluster
            .job(roles::WORKER, &["worker", "round", "--min-points", minimum])
            .await;
        cluster.assert_one_round().await;
    }
    cluster.assert_an_answer_reads_the_coordinator_alone().await;
    // Rounds do not make the table grow.
    cluster.assert_the_shards_do_not_grow().await;
}
