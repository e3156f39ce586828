//! Records every change in the database and every answer, and reports which promises were broken.
//!
//! It does not depend on how the programs work. It only compares what they committed and answered
//! with the promises.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde_json::Value;

use crate::{Client, TestDatabase};

/// Records the answers of a database's clients; triggers record the database's changes.
#[derive(Clone, Debug)]
pub struct Checker {
    began: Instant,
    /// In the format of `checker/findings.sql`.
    answers: Arc<Mutex<Vec<Value>>>,
}

impl Checker {
    /// Installs the triggers. The database must have its users, and no program may use it yet.
    pub async fn install(database: &TestDatabase) -> Self {
        database.run(include_str!("checker/audit.sql")).await;
        Self {
            began: Instant::now(),
            answers: Arc::default(),
        }
    }

    /// Sends a query to a replica, records the answer, and returns its status. `None` when no whole
    /// response arrived, as from a replica that was killed.
    pub async fn query(&self, client: &Client) -> Option<u16> {
        let sent_at = Instant::now();
        let reply = client.try_get("/").await?;
        if reply.status == 200 {
            // A truncated body is no answer.
            self.record(sent_at, serde_json::from_slice(&reply.body).ok()?);
        }
        Some(reply.status.as_u16())
    }

    /// Records an answer with status 200, which was received just now.
    pub fn record(&self, sent_at: Instant, mut body: Value) {
        let nanoseconds = |at: Instant| {
            let since = at - self.began;
            u64::try_from(since.as_nanos()).expect("a test takes less than 584 years")
        };
        body["received_at"] = nanoseconds(Instant::now()).into();
        body["sent_at"] = nanoseconds(sent_at).into();
        self.answers().push(body);
    }

    /// Forgets all answers.
    pub fn clear(&self) {
        self.answers().clear();
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Value>> {
        let answers = self.answers.lock();
        answers.expect("nothing panics while it holds this lock")
    }

    /// Reports on everything that was recorded. By now no program may use the database.
    pub async fn report(&self, database: &TestDatabase) -> Report {
        let answers = self.answers().clone();
        let mut session = database.superuser().await;
        let violations = sqlx::query_as(include_str!("checker/findings.sql"))
            .bind(&answers)
            .fetch_all(&mut session)
            .await
            .expect("a superuser may read the audit");
        Report {
            rounds: database.value("select count(*) from audit.rounds").await,
            answers: answers.len(),
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
            "{} rounds, {} answers",
            self.rounds, self.answers
        )?;
        for (violation, count, example) in &self.violations {
            writeln!(formatter, "{violation}, {count} times: {example}")?;
        }
        Ok(())
    }
}
