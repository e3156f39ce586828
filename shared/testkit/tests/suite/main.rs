//! The checker finds nothing in a correct history, and each kind of violation in a broken one.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test panics where it can't go on"
)]

use std::time::Instant;

use serde_json::{Value, json};
use shared::db::close;
use shared::domain::rounds;
use shared::domain::users::Layout;
use testkit::{Checker, Observation, Program, TEST_TIMEOUT, TestDatabase, eventually, sql};

const USERS: i64 = 100;

/// The writes of a worker's round without the fence: the tick is always due.
const BEGIN_ROUND: &str = "
    begin;
    select pg_try_advisory_xact_lock(1);
    update users set points = 50, updated_at = now();";
const END_ROUND: &str = "
    update settings set min_points = 0, first_user_id = 1, second_user_id = 2;
    insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated)
    values ('2026-01-01 00:00:00Z', true, now(), clock_timestamp(), 100)
    on conflict (tick_at) do update
    set finished_at = excluded.finished_at, started_at = excluded.started_at;
    commit";

/// How answers show times.
const TIME: &str = "%Y-%m-%d %H:%M:%S";

/// A history whose audit holds only correct rounds and queries.
struct History {
    database: TestDatabase,
    checker: Checker,
    /// For each round: its users, and the times of the queries after it.
    rounds: Vec<(Value, [String; 3])>,
}

impl History {
    /// Records this many rounds, each followed by three queries.
    async fn of_rounds(number: usize) -> Self {
        let database = TestDatabase::with_users(USERS).await;
        let checker = Checker::install(&database).await;
        let mut history = Self {
            database,
            checker,
            rounds: Vec::new(),
        };
        history.query().await;
        for _ in 0..number {
            let users = history.round().await;
            let times = [
                history.query().await,
                history.query().await,
                history.query().await,
            ];
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

    /// Answers a query as a replica does, records it, and returns its time.
    async fn query(&self) -> String {
        let mut api = self.database.replica_session().await;
        let sent_at = Instant::now();
        let answer = api.answer().await.unwrap();
        self.checker.record(Observation {
            sent_at,
            received_at: Instant::now(),
            users: (answer.users.iter())
                .map(|user| json!({"id": user.id, "points": user.points}))
                .collect(),
            timestamp: answer.previous_at.map(|at| at.format(TIME).to_string()),
        });
        answer.queried_at.format(TIME).to_string()
    }

    /// Records an answer with these users and this timestamp, after all others.
    fn record(&self, users: &Value, timestamp: Option<&str>) {
        self.checker.record(Observation {
            sent_at: Instant::now(),
            received_at: Instant::now(),
            users: users.clone(),
            timestamp: timestamp.map(ToOwned::to_owned),
        });
    }

    /// Asserts that the checker finds this kind of violation and no other.
    async fn assert_found(&self, what: &str, violation: &str) {
        let report = self.checker.report(&self.database).await;
        let found: Vec<_> = report.violations.iter().map(|(name, ..)| name).collect();
        assert_eq!(found, [violation], "{what}: {report}");
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
    let round = format!("{BEGIN_ROUND}{END_ROUND}");
    let with = |write: &str, wrong: &str| {
        assert!(round.contains(write));
        round.replace(write, wrong)
    };
    for (wrong, violation) in [
        (format!("{round}; {round}"), "a tick was done twice"),
        (
            "update users set points = 1, updated_at = now()".to_owned(),
            "a round is incomplete",
        ),
        (
            "update settings set first_user_id = first_user_id".to_owned(),
            "a round is incomplete",
        ),
        (with(END_ROUND, "commit"), "a round is incomplete"),
        (
            with(
                "first_user_id = 1, second_user_id = 2",
                "second_user_id = null",
            ),
            "a round chose users that do not qualify, or too few",
        ),
        (
            with("min_points = 0", "min_points = 50"),
            "a round chose users that do not qualify, or too few",
        ),
        (
            with("points = 50, updated_at = now()", "points = 50"),
            "a round did not renew every user",
        ),
        (
            with("updated_at = now()", "updated_at = now() where id > 1"),
            "a round did not renew every user",
        ),
        (
            // A query of another replica is lost.
            "update last_query set previous_at = previous_at, queried_at = clock_timestamp()"
                .to_owned(),
            "a move does not continue where the previous one ended, or goes back in time",
        ),
        (
            // The table's constraint would refuse it.
            "alter table last_query drop constraint last_query_never_goes_back; \
             update last_query \
             set previous_at = queried_at, queried_at = queried_at - interval '1 second'"
                .to_owned(),
            "a move does not continue where the previous one ended, or goes back in time",
        ),
    ] {
        let history = History::of_rounds(1).await;
        history.database.run(&wrong).await;
        history.assert_found(&wrong, violation).await;
    }
}

#[tokio::test]
async fn two_rounds_at_the_same_time_are_found() {
    let history = History::of_rounds(1).await;
    let database = &history.database;
    let mut first = database.superuser().await;
    sql::run(&mut first, BEGIN_ROUND).await;
    // The other one begins, and waits for the locks of the users.
    let other = format!("{BEGIN_ROUND}{END_ROUND}").replace("2026-01-01", "2026-01-02");
    tokio::join!(database.run(&other), async {
        eventually("the other transaction waits for a lock", async || {
            let waits = "select exists (select from pg_stat_activity \
                         where datname = current_database() and wait_event_type = 'Lock')";
            database.value(waits).await
        })
        .await;
        sql::run(&mut first, END_ROUND).await;
    });
    close(first).await;
    let violation = "two rounds ran at the same time";
    history.assert_found("two rounds", violation).await;
}

#[tokio::test]
async fn each_answer_that_contradicts_is_found() {
    let mut history = History::of_rounds(3).await;
    let [(first, _), (second, times), (third, _)] = &history.rounds.clone()[..] else {
        panic!("three rounds were done");
    };
    // The users of an answer after the last query before a round may be those of that round.
    let [time, later, before_third] = times.each_ref().map(|time| Some(&**time));
    let (none, invented) = (json!([]), json!([{"id": 1, "points": 101}]));
    for (answers, violation) in [
        (
            [(&none, None), (&none, None)],
            "several answers are the very first",
        ),
        (
            [(second, time), (second, Some("2999-07-30 17:09:33"))],
            "an answer shows a time at which no query was answered",
        ),
        (
            [(second, time), (&invented, later)],
            "an answer shows users that no round chose",
        ),
        (
            [(second, later), (second, time)],
            "an answer shows an earlier time than an answer before it",
        ),
        (
            [(third, before_third), (second, before_third)],
            "an answer shows users of an older round than an answer before it",
        ),
        (
            [(first, time), (second, time)],
            "an answer shows users of another round than that of its place",
        ),
        (
            [(second, time), (third, time)],
            "an answer shows users of another round than that of its place",
        ),
    ] {
        history.checker = Checker::default();
        for (users, timestamp) in answers {
            history.record(users, timestamp);
        }
        history.assert_found(violation, violation).await;
    }
}

#[tokio::test]
async fn a_test_ignores_the_environment_of_another_server() {
    // A test of this binary, in a process with that environment.
    let mut program = Program::spawn({
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_correct_history_is_clean"])
            .env("PGSSLMODE", "require")
            .env("PGOPTIONS", "-cwork_mem=1MB")
            .env("PGHOST", "nowhere")
            .env("PGDATESTYLE", "no such style");
        command
    });
    program.wait_for_output("1 passed").await;
    assert!(program.wait().await.success());
}
