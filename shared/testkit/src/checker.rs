//! Records every change in the database and every answer, and reports which promises were broken.
//!
//! It does not depend on how the programs work. It only compares what they committed and answered
//! with the promises.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::Value;

use crate::{Client, TestDatabase};

/// Records the answers of a database's clients; triggers record the database's changes.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    observations: Arc<Mutex<Vec<Observation>>>,
    error_responses: Arc<AtomicU64>,
}

/// An answer with status 200.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Just before the request was sent.
    pub sent_at: Instant,
    /// Just after the response was read.
    pub received_at: Instant,
    /// The body's `users`.
    pub users: Value,
    /// The body's `timestamp`.
    pub timestamp: Option<String>,
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
        let began = observations.iter().map(|answer| answer.sent_at).min();
        let nanoseconds = |at: Instant| {
            let since = began.map_or_else(Default::default, |began| at - began);
            i64::try_from(since.as_nanos()).expect("a test takes less than 292 years")
        };
        let column = |of: fn(&Observation) -> Instant| -> Vec<i64> {
            observations
                .iter()
                .map(|answer| nanoseconds(of(answer)))
                .collect()
        };
        let users: Vec<_> = observations.iter().map(|answer| &answer.users).collect();
        let timestamps: Vec<_> = (observations.iter())
            .map(|answer| answer.timestamp.as_deref().unwrap_or_default())
            .collect();
        let mut session = database.superuser().await;
        let violations = sqlx::query_as(include_str!("checker/findings.sql"))
            .bind(column(|answer| answer.sent_at))
            .bind(column(|answer| answer.received_at))
            .bind(users)
            .bind(timestamps)
            .fetch_all(&mut session)
            .await
            .expect("a superuser may read the audit");
        Report {
            rounds: database.value("select count(*) from audit.rounds").await,
            answers: observations.len(),
            error_responses: self.error_responses.load(Ordering::Relaxed),
            violations,
        }
    }
}

/// What the checker found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Committed rounds.
    pub rounds: i64,
    /// Answers with status 200.
    pub answers: usize,
    /// Responses with any other status.
    pub error_responses: u64,
    /// Which promises were broken: the kinds of violations in `checker/findings.sql`, how often
    /// each was found, and an example.
    pub violations: Vec<(String, i64, String)>,
}

impl Report {
    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} rounds, {} answers, {} other responses",
            self.rounds, self.answers, self.error_responses
        )?;
        for (violation, count, example) in &self.violations {
            writeln!(formatter, "{violation}, {count} times: {example}")?;
        }
        Ok(())
    }
}
