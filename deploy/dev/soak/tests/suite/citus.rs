//! Users spread over the nodes of a Citus cluster. `MAX_TWO_CITUS_URL` is a superuser's URL of a database on a coordinator
//! that knows its nodes; our tables there are dropped. See deploy/citus/README.md.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use private_postgres::roles;
use serde_json::Value;
use shared::users;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, raw_sql};
use testkit::{Client, Program, eventually, free_address};

use crate::{EVERY_SECOND, EXECUTABLE};

const USERS: i64 = 100_000;
const ROUNDS: i64 = 10;
/// For all roles: it is a database for tests.
const PASSWORD: &str = "citus";
const DISTRIBUTE: &str = include_str!("../../../../citus/distribute.sql");
/// Every move of the chain, written down while its row is locked.
const WITNESS: &str = "
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

/// The cluster's coordinator, as a superuser.
struct Coordinator {
    options: PgConnectOptions,
    session: PgConnection,
}

impl Coordinator {
    /// With an empty database, in which the roles may work.
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

    /// One of our programs, as a role.
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

    async fn job(&self, role: &str, arguments: &[&str]) {
        let mut program = self.program(role, arguments, &[]);
        assert!(program.wait().await.success(), "{}", program.output());
    }

    fn worker(&self) -> Program {
        let environment = [("SCHEDULE", EVERY_SECOND), ("COOLDOWN", "0s")];
        self.program(roles::WORKER, &["worker"], &environment)
    }

    async fn replica(&self) -> (Program, Client) {
        let address = free_address();
        let listen = address.to_string();
        let environment = [("LISTEN", &*listen), ("DRAIN_DELAY", "0s")];
        let mut program = self.program(roles::API, &["api"], &environment);
        program.wait_for_event("database_connected").await;
        (program, Client::new(address))
    }

    async fn rounds(&mut self) -> i64 {
        self.value("select count(*) from rounds").await
    }

    /// Asks the replica, until so many more rounds have been done, and returns the timestamps in their order.
    async fn ask_during(&mut self, client: &Client, rounds: i64) -> Vec<Option<String>> {
        let until = self.rounds().await + rounds;
        let mut timestamps = Vec::new();
        while self.rounds().await < until {
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

    /// Whether all that one round wrote is there, and nothing of another.
    async fn assert_whole(&mut self) {
        let stale = format!(
            "select {USERS} - count(*) from users where updated_at = (select max(started_at) from rounds)"
        );
        assert_eq!(self.value::<i64>(&stale).await, 0);
        // The points that are shown are those of the users, and exceed the minimum.
        let shown: Value = self
            .value("select jsonb_build_array(first_user_id, first_points, second_user_id, second_points) from settings")
            .await;
        for pair in shown.as_array().unwrap().chunks(2) {
            if let [Value::Number(id), Value::Number(points)] = pair {
                let points_are = format!(
                    "select points = {points} and {points} > (select min_points from settings) from users where id = {id}"
                );
                assert!(self.value::<bool>(&points_are).await, "{shown}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a Citus coordinator: MAX_TWO_CITUS_URL"]
async fn over_users_spread_over_nodes_every_promise_holds() {
    let mut cluster = Coordinator::new().await;
    cluster.job(roles::OWNER, &["worker", "migrate"]).await;
    cluster.run(DISTRIBUTE).await;
    let mut session = cluster.options.connect().await.unwrap();
    assert_eq!(
        users::layout(&mut session).await.unwrap(),
        users::Layout::Distributed
    );
    roles::grant(&mut cluster.session).await.unwrap();
    let users = USERS.to_string();
    cluster
        .job(roles::OWNER, &["worker", "seed", "--users", &users])
        .await;
    assert_eq!(
        cluster.value::<i64>("select count(*) from users").await,
        USERS
    );
    cluster.run(WITNESS).await;

    let (mut first, mut second) = (cluster.worker(), cluster.worker());
    let (mut replica, client) = cluster.replica().await;
    let mut timestamps = cluster.ask_during(&client, ROUNDS).await;

    // Both kinds of process, killed at their work.
    eventually("a round runs", async || {
        sqlx::query_scalar("select exists (select from pg_stat_activity where query like 'update users%' and state = 'active')")
            .fetch_one(&mut session)
            .await
            .unwrap()
    })
    .await;
    first.signal(Signal::SIGKILL);
    first.wait().await;
    let mut first = cluster.worker();
    timestamps.extend(cluster.ask_during(&client, 2).await);
    replica.signal(Signal::SIGKILL);
    replica.wait().await;
    let (mut replica, client) = cluster.replica().await;
    timestamps.extend(cluster.ask_during(&client, 2).await);
    for program in [&mut first, &mut second, &mut replica] {
        assert!(program.stop().await.success(), "{}", program.output());
    }

    // P1: one truth. P2: once per tick.
    cluster.assert_whole().await;
    let renewed: i64 = cluster.value("select min(users_updated) from rounds").await;
    assert_eq!(renewed, USERS);
    let ticks: i64 = cluster
        .value("select count(distinct tick_at) from rounds where scheduled")
        .await;
    assert_eq!(ticks, cluster.rounds().await);
    // P3: one after the other; and a cooldown that is counted in the database.
    let at_once: i64 = cluster
        .value("select count(*) from rounds join rounds as other on other.tick_at < rounds.tick_at where other.finished_at > rounds.finished_at")
        .await;
    assert_eq!(at_once, 0);
    cluster
        .run("update rounds set finished_at = tick_at + interval '2 s' where tick_at = (select max(tick_at) from rounds)")
        .await;
    let environment = [("SCHEDULE", EVERY_SECOND), ("COOLDOWN", "1h")];
    let mut cooling = cluster.program(roles::WORKER, &["worker"], &environment);
    cooling.wait_for_event("round_cooling_down").await;
    assert!(cooling.stop().await.success());
    // P4: one chain, and what was answered goes along it.
    assert_eq!(cluster.value::<i64>(CHAIN_ERRORS).await, 0);
    assert!(timestamps.is_sorted(), "{timestamps:?}");
    // P5: at both ends of what the minimum can be, and where nobody qualifies.
    for minimum in ["0", "50", "99", "100"] {
        cluster
            .job(roles::WORKER, &["worker", "round", "--min-points", minimum])
            .await;
        cluster.assert_whole().await;
    }
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "explain {}",
        shared::last_query::ANSWER_SQL
    )))
    .fetch_all(&mut session)
    .await
    .unwrap();
    assert!(
        !plan
            .iter()
            .any(|line| line.contains("Citus") || line.contains("users")),
        "an answer concerns the coordinator alone: {plan:?}"
    );
    // The shards keep their room: rounds do not make them grow.
    let sizes = "select sum(citus_relation_size('users'))::bigint";
    let before: i64 = cluster.value(sizes).await;
    let mut seen = BTreeSet::new();
    for _ in 0..ROUNDS {
        cluster.job(roles::WORKER, &["worker", "round"]).await;
        seen.insert(cluster.value::<i64>(sizes).await);
    }
    assert_eq!(seen, BTreeSet::from([before]));
}
