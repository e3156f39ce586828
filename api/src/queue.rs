//! The queue of queries that wait for the database, and the batch that is being answered.
//!
//! A handler submits a query and awaits its reply. The coalescer takes everything that is queued as
//! one batch, and replies to the batch's queries. A query that it drops without a reply fails.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::problem::Problem;
use crate::query::{Query, Replies, Reply};

/// The sending end of the queue, for handlers.
pub(crate) struct Queue(mpsc::Sender<PendingQuery>);

/// A query that waits for its reply.
struct PendingQuery {
    query: Query,
    queued_at: Instant,
    reply_to: oneshot::Sender<Reply>,
}

impl Queue {
    /// A queue for at most `max_waiting` queries, and its receiving end.
    pub(crate) fn new(max_waiting: usize) -> (Self, QueueReceiver) {
        let (sender, receiver) = mpsc::channel(max_waiting);
        (Self(sender), QueueReceiver(receiver))
    }

    /// Queues a query and returns its reply: [`Problem::Overloaded`] at once when the queue is
    /// full, [`Problem::Unavailable`] when the database does not answer in time or its session is
    /// lost.
    pub(crate) async fn submit(&self, query: Query) -> Reply {
        let (sender, reply) = oneshot::channel();
        let pending = PendingQuery {
            query,
            queued_at: Instant::now(),
            reply_to: sender,
        };
        self.0.try_send(pending).map_err(|_| Problem::Overloaded)?;
        reply.await.unwrap_or(Err(Problem::Unavailable))
    }

    /// How many queries are queued.
    pub(crate) fn len(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

/// The receiving end of the queue, for the coalescer.
pub(crate) struct QueueReceiver(mpsc::Receiver<PendingQuery>);

impl QueueReceiver {
    /// Waits until queries are queued, and moves all of them to the batch. Cancel safe.
    pub(crate) async fn receive(&mut self, batch: &mut Batch) {
        let max_waiting = self.0.max_capacity();
        let received = self.0.recv_many(&mut batch.0, max_waiting).await;
        assert!(received > 0, "the process holds the queue to its end");
    }

    /// Moves what is queued now to the batch, without waiting.
    pub(crate) fn receive_now(&mut self, batch: &mut Batch) {
        for _ in 0..self.0.len() {
            batch.0.extend(self.0.try_recv());
        }
    }
}

/// The queries that are being answered, in the order in which they were queued.
#[derive(Default)]
pub(crate) struct Batch(Vec<PendingQuery>);

impl Batch {
    /// How many queries have no reply yet.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first query that has no reply yet.
    pub(crate) fn next_query(&self) -> Option<Query> {
        self.0.first().map(|pending| pending.query)
    }

    /// When each query that equals this one was queued.
    pub(crate) fn queued_times(&self, query: Query) -> impl Iterator<Item = Instant> {
        self.0
            .iter()
            .filter(move |pending| pending.query == query)
            .map(|pending| pending.queued_at)
    }

    /// Replies to all queries that equal this one, which leave the batch.
    pub(crate) fn reply(&mut self, query: Query, replies: &Replies) {
        let mut reply = &replies.first;
        let is_equal = |pending: &mut PendingQuery| pending.query == query;
        for pending in self.0.extract_if(.., is_equal) {
            // Sending fails when the client has hung up.
            let _ = pending.reply_to.send(reply.clone());
            reply = &replies.others;
        }
    }

    /// Fails the queries that have waited for longer than `limit`, including their time in the
    /// queue.
    pub(crate) fn fail_late(&mut self, limit: Duration) {
        let is_late = |pending: &&PendingQuery| pending.queued_at.elapsed() > limit;
        let late = self.0.iter().take_while(is_late).count();
        self.0.drain(..late);
    }

    /// Fails every query.
    pub(crate) fn fail_all(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    /// A query that was queued `ago` before now, and the receiver of its reply.
    fn queued(ago: Duration) -> (PendingQuery, oneshot::Receiver<Reply>) {
        let (sender, reply) = oneshot::channel();
        let pending = PendingQuery {
            query: Query::TwoUsers,
            queued_at: Instant::now()
                .checked_sub(ago)
                .expect("the machine has run for longer"),
            reply_to: sender,
        };
        (pending, reply)
    }

    #[test]
    fn only_queries_that_have_waited_past_the_limit_fail_while_the_database_is_slow() {
        let limit = Duration::from_millis(800);
        let (old, mut old_reply) = queued(2 * limit);
        let (new, mut new_reply) = queued(Duration::ZERO);
        let mut batch = Batch(vec![old, new]);
        batch.fail_late(limit);
        assert_eq!(old_reply.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(new_reply.try_recv(), Err(TryRecvError::Empty));
    }
}
