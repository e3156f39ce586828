//! Records every change in the database and every answer, and finds which promises were broken.
//!
//! It does not depend on how the programs work. It only compares what they committed and answered
//! with the promises.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use shared::db::Session;

use crate::{Client, TestDatabase};

/// Records the answers of a database's clients; triggers record the database's changes.
#[derive(Clone, Debug)]
pub struct Checker {
    /// How often a request was sent or an answer received.
    moments: Arc<AtomicU64>,
    /// In the format of `checker/findings.sql`.
    answers: Arc<Mutex<Vec<Value>>>,
}

impl Checker {
    /// Installs the triggers. The database must have its users, and no program may use it yet.
    pub async fn install(database: &TestDatabase) -> Self {
        database.run(include_str!("checker/audit.sql")).await;
        Self {
            moments: Arc::default(),
            answers: Arc::default(),
        }
    }

    /// Sends a query to a replica, records the answer, and returns its status. `None` when no whole
    /// response arrived, as from a replica that was killed.
    pub async fn query(&self, client: &Client) -> Option<u16> {
        let next_moment = || self.moments.fetch_add(1, Ordering::SeqCst);
        let sent_at = next_moment();
        let reply = client.try_get("/").await?;
        if reply.status == 200 {
            let mut answer = reply.json();
            answer["sent_at"] = sent_at.into();
            answer["received_at"] = next_moment().into();
            let mut answers = self.answers.lock().expect("a push does not panic");
            answers.push(answer);
        }
        Some(reply.status.as_u16())
    }

    /// Asserts that no promise was broken. Returns how many rounds were committed and how many
    /// queries answered. By now no program may use the database.
    pub async fn assert_clean(&self, database: &TestDatabase) -> (i64, usize) {
        let answers = self.answers.lock().expect("a push does not panic").clone();
        let violations = find_violations(&mut database.superuser().await, &answers).await;
        let rounds = "select count(tick_at) from audit.writes";
        let counts = (database.value(rounds).await, answers.len());
        println!("{} rounds, {} answers", counts.0, counts.1);
        assert!(violations.is_empty(), "{violations:#?}");
        counts
    }
}

/// Which promises were broken: the kinds of violations in `checker/findings.sql`, how often each
/// was found, and an example.
async fn find_violations(session: &mut Session, answers: &[Value]) -> Vec<(String, i64, String)> {
    sqlx::query_as(include_str!("checker/findings.sql"))
        .bind(answers)
        .fetch_all(session)
        .await
        .expect("a superuser may read the audit")
}
