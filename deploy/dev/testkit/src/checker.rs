//! The checker: witnesses every change in the database and every answer, and says at the end what was not as promised.
//!
//! It knows nothing of how the programs do it: it compares what was committed and what was answered with the promises.

mod history;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use hyper::Method;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::{Client, TestDatabase};

use history::Known;
pub use history::Observation;

/// One who watches a database and its clients.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    observations: Arc<Mutex<Vec<Observation>>>,
    refused: Arc<Mutex<u64>>,
}

impl Checker {
    /// Begins to watch. The database has its users, and nobody uses it yet.
    pub async fn install(database: &TestDatabase) -> Self {
        database.run(include_str!("checker/audit.sql")).await;
        Self::default()
    }

    /// Asks a replica, and remembers the answer. `None` where none came, as from a replica that is killed.
    pub async fn query(&self, client: &Client) -> Option<u16> {
        let asked_at = Instant::now();
        let reply = client.send(Method::GET, "/").await.ok()?;
        let answered_at = Instant::now();
        let status = reply.status.as_u16();
        if status != 200 {
            *self.refused.lock().expect("nothing panics with this lock") += 1;
            return Some(status);
        }
        // A body that was cut off is no answer.
        let mut body: Value = serde_json::from_slice(&reply.body).ok()?;
        self.saw(Observation {
            asked_at,
            answered_at,
            users: body["users"].take(),
            timestamp: body["timestamp"].as_str().map(ToOwned::to_owned),
        });
        Some(status)
    }

    /// Remembers an answer.
    pub fn saw(&self, observation: Observation) {
        self.observations
            .lock()
            .expect("nothing panics with this lock")
            .push(observation);
    }

    /// Judges all that was seen up to now. Nobody uses the database any more.
    pub async fn report(&self, database: &TestDatabase) -> Report {
        let observations = self
            .observations
            .lock()
            .expect("nothing panics with this lock")
            .clone();
        let choices: Vec<Value> = database
            .values("select users from audit.choices order by number")
            .await;
        let seconds: Vec<String> = database
            .values("select distinct to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') from audit.queries")
            .await;
        let known = Known {
            choices,
            seconds: seconds.into_iter().collect(),
        };
        Report {
            rounds: database.value("select count(*) from audit.rounds").await,
            first_tick: database
                .value("select min(tick_at) from audit.rounds where scheduled")
                .await,
            last_tick: database
                .value("select max(tick_at) from audit.rounds where scheduled")
                .await,
            findings: findings(database).await,
            batches: database.value("select count(*) from audit.queries").await,
            unclaimed: unclaimed(database, &observations).await,
            answers: observations.len(),
            refused: *self.refused.lock().expect("nothing panics with this lock"),
            contradictions: history::contradictions(&observations, &known),
        }
    }
}

/// How often each promise was broken, by what the audit wrote down.
const FINDINGS: &str = include_str!("checker/findings.sql");

async fn findings(database: &TestDatabase) -> Vec<(String, i64)> {
    let mut connection = database.superuser().await;
    sqlx::query_as(AssertSqlSafe(format!(
        "select finding, count::bigint from ({FINDINGS}) as findings"
    )))
    .fetch_all(&mut connection)
    .await
    .expect("a superuser may read what the audit wrote")
}

/// Batches whose first answer, the one with the time of the query before, nobody got: counted by the seconds that answers
/// show.
async fn unclaimed(database: &TestDatabase, observations: &[Observation]) -> i64 {
    let seen: Vec<String> = observations
        .iter()
        .map(|observation| observation.timestamp.clone().unwrap_or_default())
        .collect();
    let mut connection = database.superuser().await;
    sqlx::query_scalar(
        "select coalesce(sum(greatest(batches - coalesce(answers, 0), 0)), 0)::bigint
         from (
             select coalesce(to_char(previous_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'), '') as second,
                    count(*) as batches
             from audit.queries group by 1
         ) as queries
         left join (
             select second, count(*) as answers from unnest($1::text[]) as second group by 1
         ) as seen using (second)",
    )
    .bind(seen)
    .fetch_one(&mut connection)
    .await
    .expect("a superuser may read what the audit wrote")
}

/// What the checker found. As text it is a table, and then each complaint.
#[derive(Clone, Debug)]
pub struct Report {
    /// Rounds that were committed.
    pub rounds: i64,
    /// The first tick that was done.
    pub first_tick: Option<DateTime<Utc>>,
    /// The last one.
    pub last_tick: Option<DateTime<Utc>>,
    /// How often each promise was broken in the database, by the names of `checker/findings.sql`.
    pub findings: Vec<(String, i64)>,
    /// Statements that moved the chain of queries on.
    pub batches: i64,
    /// Batches whose first answer reached nobody: none, unless answers were lost or others asked, too.
    pub unclaimed: i64,
    /// Answers with status 200.
    pub answers: usize,
    /// Other answers.
    pub refused: u64,
    /// What answers said that can't be.
    pub contradictions: Vec<String>,
}

impl Report {
    /// How many ticks were due from the first to the last that was done, when one is due every `pause`.
    #[must_use]
    pub fn due(&self, pause: TimeDelta) -> i64 {
        match (self.first_tick, self.last_tick) {
            (Some(first), Some(last)) => (last - first).num_seconds() / pause.num_seconds() + 1,
            _ => 0,
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.contradictions.is_empty() && self.findings.iter().all(|&(_, count)| count == 0)
    }

    /// How often the promise of this name was broken.
    #[must_use]
    pub fn count(&self, finding: &str) -> i64 {
        let found = self.findings.iter().find(|(name, _)| name == finding);
        found.unwrap_or_else(|| panic!("{finding}: {self}")).1
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("rounds", self.rounds),
            ("statements in the chain", self.batches),
            ("answers", i64::try_from(self.answers).unwrap_or(i64::MAX)),
            ("refused", i64::try_from(self.refused).unwrap_or(i64::MAX)),
        ];
        let findings = self.findings.iter().map(|(name, count)| (&**name, *count));
        for (what, count) in counts.into_iter().chain(findings) {
            writeln!(formatter, "{what:<26}{count:>10}")?;
        }
        writeln!(
            formatter,
            "{:<26}{:>10}",
            "contradicting answers",
            self.contradictions.len()
        )?;
        for contradiction in self.contradictions.iter().take(20) {
            writeln!(formatter, "  {contradiction}")?;
        }
        Ok(())
    }
}
