//! Coalescing: requests that arrive while a statement runs wait together, and the next statement answers all of them.
//!
//! The chain of queries stays exact: the first request of a batch gets the time of the query before, and all others get
//! the batch's own time, for they come right after each other at that very instant. That is what answering them one by
//! one would have said. The statement runs in this task alone, so a client that hangs up cancels nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{Connection, Database, Error, goodbye, in_time};
use shared::last_query::{self, Answer};
use shared::users::User;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::problem::Problem;

/// The pause between two attempts to reach the database.
const RETRY: Duration = Duration::from_millis(200);
/// How many callers' traces the log line of a failed batch names.
const NAMED_TRACES: usize = 8;

/// The body of an answer.
#[derive(Serialize, ToSchema)]
#[schema(title = "Answer")]
pub(crate) struct Body<'a> {
    /// At most two users whose points are above the minimum, in the order of their ids.
    #[schema(value_type = Vec<crate::openapi::User>, max_items = 2)]
    users: &'a [User],
    /// When the previous query was answered, in UTC; null for the very first.
    #[schema(
        example = "2020-07-30 17:09:33",
        pattern = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
    )]
    timestamp: Option<String>,
}

/// One request that waits.
struct Question {
    asked_at: Instant,
    /// Of the caller's trace, for the log if it fails.
    traceparent: Option<String>,
    reply: oneshot::Sender<Result<Bytes, Problem>>,
}

/// The line in which requests wait for the next statement.
#[derive(Clone)]
pub(crate) struct Line(mpsc::Sender<Question>);

impl Line {
    /// Waits for the next statement, and returns the body of the answer.
    ///
    /// # Errors
    /// [`Problem::Overloaded`] at once when the line is full; [`Problem::Unavailable`] when the database does not answer
    /// in time.
    pub(crate) async fn ask(&self, traceparent: Option<String>) -> Result<Bytes, Problem> {
        let (reply, answer) = oneshot::channel();
        let question = Question {
            asked_at: Instant::now(),
            traceparent,
            reply,
        };
        self.0.try_send(question).map_err(|_| Problem::Overloaded)?;
        answer.await.unwrap_or(Err(Problem::Unavailable))
    }

    /// How many are waiting.
    pub(crate) fn length(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

/// Opens a line for `capacity` requests, served by a task of its own until all of its ends are dropped. A request is
/// answered within `timeout`: half of it may pass behind the statement before, half of it in its own.
pub(crate) fn open(
    database: &Database,
    capacity: usize,
    timeout: Duration,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> Line {
    let (sender, waiting) = mpsc::channel(capacity);
    let coalescer = Coalescer {
        database: database.clone().statement_timeout(timeout / 2),
        deadline: timeout / 2,
        waiting,
        batch: Vec::new(),
        health,
        metrics,
    };
    tokio::spawn(coalescer.run());
    Line(sender)
}

struct Coalescer {
    database: Database,
    /// For each statement, and for each attempt to reach the database.
    deadline: Duration,
    waiting: mpsc::Receiver<Question>,
    /// Those whose statement runs.
    batch: Vec<Question>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Coalescer {
    /// Serves the line until nobody can ask any more.
    async fn run(mut self) {
        let mut complaint = None;
        while !self.waiting.is_closed() {
            let connected = self.connect().await;
            let outcome = match connected {
                Ok(connection) => {
                    info!("the database is reached");
                    complaint = None;
                    self.health.reached_database();
                    self.metrics.database_is_up(true);
                    self.serve(connection).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.metrics.database_is_up(false);
                self.fail(&error, &mut complaint);
                sleep(RETRY).await;
            }
        }
    }

    /// Reaches the database, and finds out whether it has what an answer needs.
    async fn connect(&self) -> Result<Connection, Error> {
        in_time(self.deadline, async {
            let mut connection = self.database.connect(self.deadline).await?;
            last_query::prepare(&mut connection).await?;
            Ok(connection)
        })
        .await
    }

    /// Answers batch after batch, each with one statement. After an error the batch is still there.
    async fn serve(&mut self, mut connection: Connection) -> Result<(), Error> {
        let most = self.waiting.max_capacity();
        while self.waiting.recv_many(&mut self.batch, most).await > 0 {
            let answer = in_time(self.deadline, last_query::answer(&mut connection)).await?;
            self.answer(&answer);
        }
        goodbye(connection).await;
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) {
        let first = body(&answer.users, answer.previous_at);
        let others = body(&answer.users, Some(answer.queried_at));
        self.metrics
            .answered(self.batch.iter().map(|question| question.asked_at));
        for (place, question) in self.batch.drain(..).enumerate() {
            let body = if place == 0 { &first } else { &others };
            // It fails when the client has hung up, and the answer has nowhere to go.
            let _ = question.reply.send(Ok(body.clone()));
        }
    }

    /// Tells everybody who waits that there will be no answer, and the log why: one line for each failed batch, and for
    /// attempts to get the database back one line as long as the reason is the same.
    fn fail(&mut self, error: &Error, complaint: &mut Option<String>) {
        while let Ok(question) = self.waiting.try_recv() {
            self.batch.push(question);
        }
        let requests = self.batch.len();
        let mut traces = Vec::new();
        for question in self.batch.drain(..) {
            traces.extend(question.traceparent);
            let _ = question.reply.send(Err(Problem::Unavailable));
        }
        traces.truncate(NAMED_TRACES);
        let reason = error.to_string();
        if requests == 0 && complaint.as_ref() == Some(&reason) {
            return;
        }
        if error.is_transient() {
            warn!(requests, traceparents = ?traces, "the database does not answer: {reason}");
        } else {
            error!(requests, traceparents = ?traces, "the database refuses: {reason}");
        }
        *complaint = Some(reason);
    }
}

fn body(users: &[User], timestamp: Option<DateTime<Utc>>) -> Bytes {
    let timestamp = timestamp.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string());
    serde_json::to_vec(&Body { users, timestamp })
        .expect("numbers and strings can be encoded")
        .into()
}
