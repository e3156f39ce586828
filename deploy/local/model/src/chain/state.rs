//! The database, the replicas and the requests at one moment.

use super::{REPLICAS, REQUESTS};

/// The time of a query; none before the very first one.
pub(super) type Time = Option<i8>;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Request {
    NotSent,
    Waiting,
    Answered {
        timestamp: Time,
        /// The round whose users it shows.
        round: u8,
    },
    /// With 503.
    Unavailable,
}

impl Request {
    pub(super) fn is_answered(self) -> bool {
        matches!(self, Self::Answered { .. })
    }
}

/// What a message returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reply {
    /// The time of the query before the message.
    pub(super) previous: Time,
    /// The time of the message.
    pub(super) queried: i8,
    /// The round whose users were read.
    pub(super) round: u8,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Progress {
    Sent,
    /// The move is committed: others see it, and a crash may lose it.
    Visible(Reply),
    Durable(Reply),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Message {
    /// The requests that it answers.
    pub(super) requests: Vec<usize>,
    pub(super) sent_at: i8,
    /// The last round when it was sent.
    pub(super) sent_round: u8,
    /// The length of the chain, with these requests, once their move is visible. The durable commit
    /// makes so much of the chain durable.
    pub(super) end: usize,
    pub(super) progress: Progress,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Replica {
    pub(super) queue: Vec<usize>,
    pub(super) message: Option<Message>,
    pub(super) last_reply: Option<Reply>,
}

/// The database, the replicas and the requests at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) clock: i8,
    pub(super) clock_went_back: bool,
    /// The last committed round.
    pub(super) round: u8,
    pub(super) requests: [Request; REQUESTS],
    /// For each request, those that were answered before it was sent.
    pub(super) answered_before: [Vec<usize>; REQUESTS],
    /// The chain: all queries in their one order, with their times. The row of `last_query` holds
    /// the last one's.
    pub(super) chain: Vec<(usize, i8)>,
    /// How many of them no crash can lose.
    pub(super) durable: usize,
    pub(super) has_crashed: bool,
    pub(super) replicas: [Replica; REPLICAS],
}

impl State {
    /// The time in the row of `last_query`.
    pub(super) fn last_queried(&self) -> Time {
        self.chain.last().map(|&(_, queried)| queried)
    }

    /// The position of a request in the chain.
    pub(super) fn position(&self, request: usize) -> Option<usize> {
        self.chain.iter().position(|&(other, _)| other == request)
    }

    /// The rounds whose users the answers show, in the order of the chain.
    pub(super) fn answered_rounds(&self) -> impl Iterator<Item = u8> {
        (self.chain.iter()).filter_map(|&(request, _)| match self.requests[request] {
            Request::Answered { round, .. } => Some(round),
            _ => None,
        })
    }
}
