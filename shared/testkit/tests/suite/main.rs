//! The checker finds nothing in a correct history, and each kind of violation in a broken one.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

use std::time::Instant;

use serde_json::{Value, json};
use shared::domain::rounds;
use shared::domain::users::Layout;
use testkit::{Checker, Program, TEST_TIMEOUT, TestDatabase, eventually, sql};

/// The writes of a worker's round without the fence: the tick is always due.
const BEGIN_ROUND: &str = "begin; update users set points = 50, updated_at = now();";
const CHOOSE: &str = "update settings set min_points = 0, first_user_id = 1, second_user_id = 2;";
const END_ROUND: &str = "
    insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
    values ('2026-01-01 00:00:00Z', true, now(), clock_timestamp(), 100)
    on conflict (tick_at) do update
    set finished_at = excluded.finished_at, started_at = excluded.started_at;
    commit;";

/// How answers show times.
const TIME: &str = "%Y-%m-%d %H:%M:%S";

/// A correct history of rounds and queries.
struct History {
    database: TestDatabase,
    checker: Checker,
    /// For each round: its users, and the times of the queries after it.
    rounds: Vec<(Value, [String; 3])>,
}

impl History {
    /// Records a query, and then this many rounds with three queries after each.
    async fn of_rounds(number: usize) -> Self {
        let database = TestDatabase::with_users(100).await;
        let mut history = Self {
            checker: Checker::install(&database).await,
            database,
            rounds: Vec::new(),
        };
        history.query().await;
        for _ in 0..number {
            let users = history.round().await;
            let mut times = [const { String::new() }; 3];
            for time in &mut times {
                *time = history.query().await;
            }
            history.rounds.push((users, times));
        }
        history
    }

    /// Does a round, and returns the users that it chose.
    async fn round(&self) -> Value {
        let mut worker = self.database.connect(&self.database.worker).await;
        let minimum = "0".parse().unwrap();
        rounds::run_now(&mut worker, Layout::SingleNode, minimum, TEST_TIMEOUT)
            .await
            .unwrap();
        let users = "select users from audit.choices order by number desc limit 1";
        self.database.value(users).await
    }

    /// Answers a query as a replica does, records the answer, and returns its time.
    async fn query(&self) -> String {
        let mut api = self.database.replica_session().await;
        let sent_at = Instant::now();
        let answer = api.answer().await.unwrap();
        let users = answer.users.iter();
        let users = users.map(|user| json!({"id": user.id, "points": user.points}));
        let timestamp = answer.previous_at.map(|at| at.format(TIME).to_string());
        let body = json!({"users": users.collect::<Value>(), "timestamp": timestamp});
        self.checker.record(sent_at, body);
        answer.queried_at.format(TIME).to_string()
    }

    /// Asserts that the checker finds this kind of violation and no other.
    async fn assert_found(&self, violation: &str) {
        let report = self.checker.report(&self.database).await;
        let found: Vec<_> = report.violations.iter().map(|(name, ..)| name).collect();
        assert_eq!(found, [violation], "{report}");
        assert!(!report.is_clean());
    }
}

#[tokio::test]
async fn a_correct_history_is_clean() {
    let history = History::of_rounds(5).await;
    let report = history.checker.report(&history.database).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.rounds, report.answers), (5, 16));
}

#[tokio::test]
async fn each_violation_in_the_database_is_found() {
    let (incomplete, fork) = (
        "a round is incomplete",
        "the chain has a fork or a step back",
    );
    let again = format!("{BEGIN_ROUND}{CHOOSE}{END_ROUND}").repeat(2);
    let without_round = format!("{BEGIN_ROUND}{CHOOSE}commit");
    let without_choice = format!("{BEGIN_ROUND}{END_ROUND}");
    let without_renewal = format!("begin;{CHOOSE}{END_ROUND}");
    let lost_query =
        "update last_query set previous_at = previous_at, queried_at = clock_timestamp()";
    // The table's constraint would refuse it.
    let step_back = "alter table last_query drop constraint last_query_never_goes_back; \
                     update last_query \
                     set previous_at = queried_at, queried_at = queried_at - interval '1 second'";
    for (wrong, violation) in [
        (&*again, "a tick was done twice"),
        (&without_round, incomplete),
        (&without_choice, incomplete),
        (&without_renewal, incomplete),
        (lost_query, fork),
        (step_back, fork),
    ] {
        let history = History::of_rounds(1).await;
        history.database.run(wrong).await;
        history.assert_found(violation).await;
    }
}

#[tokio::test]
async fn two_rounds_at_the_same_time_are_found() {
    let history = History::of_rounds(1).await;
    let database = &history.database;
    let mut first = database.superuser().await;
    sql::run(&mut first, BEGIN_ROUND).await;
    // The other one begins, and waits for the locks of the users.
    let other = format!("{BEGIN_ROUND}{CHOOSE}{END_ROUND}").replace("2026-01-01", "2026-01-02");
    tokio::join!(database.run(&other), async {
        eventually("the other transaction waits for a lock", async || {
            let waits = "select exists (select from pg_stat_activity \
                         where datname = current_database() and wait_event_type = 'Lock')";
            database.value(waits).await
        })
        .await;
        sql::run(&mut first, &format!("{CHOOSE}{END_ROUND}")).await;
    });
    history
        .assert_found("two rounds ran at the same time")
        .await;
}

#[tokio::test]
async fn each_answer_that_contradicts_is_found() {
    let history = History::of_rounds(3).await;
    let [(first, _), (second, times), (third, _)] = &history.rounds.clone()[..] else {
        panic!("three rounds were done");
    };
    // An answer after the last query before a round may show the users of that round, too.
    let [time, later, before_third] = times.each_ref().map(|time| Some(&**time));
    let never = Some("2999-07-30 17:09:33");
    let (none, invented) = (json!([]), json!([{"id": 1, "points": 101}]));
    let wrong_place = "an answer has users of another place in the chain";
    for (answers, violation) in [
        (
            [(&none, None), (&none, None)],
            "several answers are the very first",
        ),
        (
            [(second, time), (second, never)],
            "an answer has the time of no query",
        ),
        (
            [(second, time), (&invented, later)],
            "an answer has users of no round",
        ),
        (
            [(second, later), (second, time)],
            "an answer has an earlier time than one before it",
        ),
        (
            [(third, before_third), (second, before_third)],
            "an answer has users of an older round than one before it",
        ),
        ([(first, time), (second, time)], wrong_place),
        ([(second, time), (third, time)], wrong_place),
    ] {
        history.checker.clear();
        for (users, timestamp) in answers {
            let body = json!({"users": users, "timestamp": timestamp});
            history.checker.record(Instant::now(), body);
        }
        history.assert_found(violation).await;
    }
}

#[tokio::test]
async fn a_test_ignores_the_environment_of_another_server() {
    // A test of this binary, in a process with that environment.
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_correct_history_is_clean"])
        .env("PGSSLMODE", "require")
        .env("PGOPTIONS", "-cwork_mem=1MB")
        .env("PGHOST", "nowhere")
        .env("PGDATESTYLE", "no such style");
    let mut program = Program::spawn(command);
    program.wait_for_output("1 passed").await;
    assert!(program.wait().await.success());
}
