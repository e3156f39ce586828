//! Records every change in the database and every answer, and reports which promises were broken.
//!
//! It does not depend on how the programs work. It only compares what they committed and answered
//! with the promises.

mod history;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::{Client, TestDatabase};

use history::Audit;
pub use history::Observation;

/// Records the answers of a database's clients; triggers record the database's changes.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    observations: Arc<Mutex<Vec<Observation>>>,
    error_responses: Arc<AtomicU64>,
}

impl Checker {
    /// Installs the triggers. The database must have its users, and no program may use it yet.
    pub async fn install(database: &TestDatabase) -> Self {
        database.run(include_str!("checker/audit.sql")).await;
        Self::default()
    }

    /// Sends a query to a replica, records the answer, and returns its status. `None` when no whole
    /// response arrived, as from a replica that was killed.
    pub async fn query(&self, client: &Client) -> Option<u16> {
        let sent_at = Instant::now();
        let reply = client.try_get("/").await?;
        let received_at = Instant::now();
        let status = reply.status.as_u16();
        if status != 200 {
            self.error_responses.fetch_add(1, Ordering::Relaxed);
            return Some(status);
        }
        // A truncated body is no answer.
        let mut body: Value = serde_json::from_slice(&reply.body).ok()?;
        self.record(Observation {
            sent_at,
            received_at,
            users: body["users"].take(),
            timestamp: body["timestamp"].as_str().map(ToOwned::to_owned),
        });
        Some(status)
    }

    /// Records an answer.
    pub fn record(&self, observation: Observation) {
        self.observations().push(observation);
    }

    fn observations(&self) -> MutexGuard<'_, Vec<Observation>> {
        self.observations
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Reports on everything that was recorded. By now no program may use the database.
    pub async fn report(&self, database: &TestDatabase) -> Report {
        let observations = self.observations().clone();
        Report {
            rounds: database.value("select count(*) from audit.rounds").await,
            first_tick: database
                .value("select min(tick_at) from audit.rounds where scheduled")
                .await,
            last_tick: database
                .value("select max(tick_at) from audit.rounds where scheduled")
                .await,
            findings: findings(database).await,
            moves: database.value("select count(*) from audit.moves").await,
            lost_first_answers: lost_first_answers(database, &observations).await,
            answers: observations.len(),
            error_responses: self.error_responses.load(Ordering::Relaxed),
            contradictions: history::contradictions(&observations, &audit(database).await),
        }
    }
}

/// Counts how often the audit shows each promise broken.
const FINDINGS: &str = include_str!("checker/findings.sql");

async fn findings(database: &TestDatabase) -> Vec<(String, i64)> {
    let mut session = database.superuser().await;
    sqlx::query_as(AssertSqlSafe(format!(
        "select finding, count::bigint from ({FINDINGS}) as findings"
    )))
    .fetch_all(&mut session)
    .await
    .expect("a superuser may read the audit")
}

async fn audit(database: &TestDatabase) -> Audit {
    let mut session = database.superuser().await;
    let choices = sqlx::query_as("select number, users from audit.choices order by number")
        .fetch_all(&mut session)
        .await
        .expect("a superuser may read the audit");
    let places: Vec<(Option<String>, i64, i64)> =
        sqlx::query_as("select nullif(timestamp, ''), first_choice, last_choice from audit.places")
            .fetch_all(&mut session)
            .await
            .expect("a superuser may read the audit");
    let places = places
        .into_iter()
        .map(|(timestamp, first, last)| (timestamp, first..=last))
        .collect();
    Audit { choices, places }
}

/// Counts moves whose first answer, the one with the time of the move before, no client got.
async fn lost_first_answers(database: &TestDatabase, observations: &[Observation]) -> i64 {
    let timestamps: Vec<String> = observations
        .iter()
        .map(|observation| observation.timestamp.clone().unwrap_or_default())
        .collect();
    let mut session = database.superuser().await;
    sqlx::query_scalar(include_str!("checker/lost_first_answers.sql"))
        .bind(timestamps)
        .fetch_one(&mut session)
        .await
        .expect("a superuser may read the audit")
}

/// What the checker found. Its text is a table, followed by the contradictions.
#[derive(Clone, Debug)]
pub struct Report {
    /// Committed rounds.
    pub rounds: i64,
    /// The first tick that was done.
    pub first_tick: Option<DateTime<Utc>>,
    /// The last tick that was done.
    pub last_tick: Option<DateTime<Utc>>,
    /// How often each promise was broken in the database, by its name in `checker/findings.sql`.
    pub findings: Vec<(String, i64)>,
    /// Moves of the chain of queries. Each message of a replica makes one, for all queries that it
    /// answers.
    pub moves: i64,
    /// Moves whose first answer no client of the checker got: 0, unless responses were lost or
    /// other clients sent queries.
    pub lost_first_answers: i64,
    /// Answers with status 200.
    pub answers: usize,
    /// Responses with any other status.
    pub error_responses: u64,
    /// Answers that contradict the audit or each other, in words.
    pub contradictions: Vec<String>,
}

impl Report {
    /// How many ticks were due from the first to the last that was done, at this interval.
    #[must_use]
    pub fn ticks_due(&self, interval: TimeDelta) -> i64 {
        match (self.first_tick, self.last_tick) {
            (Some(first), Some(last)) => (last - first).num_seconds() / interval.num_seconds() + 1,
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
            ("moves of the chain", self.moves),
            ("answers", i64::try_from(self.answers).unwrap_or(i64::MAX)),
            (
                "error responses",
                i64::try_from(self.error_responses).unwrap_or(i64::MAX),
            ),
        ];
        let findings = self.findings.iter().map(|(name, count)| (&**name, *count));
        for (name, count) in counts.into_iter().chain(findings) {
            writeln!(formatter, "{name:<26}{count:>10}")?;
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
