//! The chain of queries: the api's coalescing and the statements of `shared/src/last_query`, by two
//! replicas at once, beside a worker's round.
//!
//! A request may arrive at any moment. A replica has one message in flight, for all requests that
//! waited when it was sent. A message reads the clock when it is sent. (Postgres reads it again
//! after a wait for the row; the earlier time is the harder case.) When it has the row's lock it
//! moves the row, reads the users, and commits, in one step here: nobody else can move the row in
//! between. That makes the move visible and frees the row. A later step makes it durable, with all
//! moves before it. (A plain durable commit is these two steps with none in between.) The reply may
//! be lost at any time; its batch then gets a 503. A round may be committed between any two steps.
//! The database's clock may advance at any moment, and may go back once.
//!
//! The database may crash, or fail over to its synchronous standby, once. All connections are lost,
//! and of the moves that are not durable, any number of the last ones.

use stateright::{Model, Property};

const REPLICAS: usize = 2;
const REQUESTS: usize = 4;
/// The clock stops here. It bounds the exploration.
const LAST_MOMENT: i8 = 2;
/// No round follows this one. It bounds the exploration.
const LAST_ROUND: u8 = 1;

/// The protocol as implemented, or with one defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No defect.
    AsImplemented,
    /// Every request of a batch gets the time of the query before the batch.
    AllGetPrevious,
    /// The row takes the clock's time even when that is earlier than its own.
    NoGreatest,
    /// A request that arrives before the reply joins the batch, even after its commit.
    JoinAfterCommit,
    /// A replica keeps the last query in its own memory.
    LastQueryInMemory,
    /// A batch whose reply is lost gets the reply of the batch before.
    StaleReply,
    /// The users are those of the snapshot from before the wait for the row's lock, as when one
    /// statement moves the row and reads them.
    UsersFromBeforeTheLock,
    /// The users are read after the commit, when the row's lock is free again.
    UsersFromAfterTheCommit,
    /// An answer leaves as soon as its move is visible.
    AnswerBeforeDurable,
    /// An answer leaves once any session's durable commit is done, even one that began before the
    /// move.
    AnotherSessionsCommit,
    /// A replica that reconnects answers a move that it has seen, and forgets that the durable
    /// commit is missing.
    ForgetsToSettle,
}

/// Replicas over one database.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The protocol that they follow.
    pub variant: Variant,
}

/// The time of a query; none before the very first one.
type Time = Option<i8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
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

/// What a message returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Reply {
    /// The time of the query before the batch.
    previous: Time,
    /// The time of the batch.
    queried: i8,
    /// The round whose users were read.
    round: u8,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Progress {
    Sent,
    /// The move is committed: others see it, and a crash may lose it.
    Visible(Reply),
    Durable(Reply),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Message {
    batch: Vec<usize>,
    sent_at: i8,
    /// The last round when it was sent.
    sent_round: u8,
    /// The length of the chain, with this batch, once that is visible. The message's durable commit
    /// makes so much of it durable.
    end: usize,
    progress: Progress,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    queue: Vec<usize>,
    message: Option<Message>,
    last_reply: Option<Reply>,
}

/// The database, the replicas and the requests at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: i8,
    clock_went_back: bool,
    /// The last committed round.
    round: u8,
    requests: [Request; REQUESTS],
    /// For each request, those that were answered before it was sent.
    answered_before: [Vec<usize>; REQUESTS],
    /// The chain: all queries in their one order, with their times. The row of `last_query` holds
    /// the last one's.
    chain: Vec<(usize, i8)>,
    /// How many of them no crash can lose.
    durable: usize,
    has_crashed: bool,
    replicas: [Replica; REPLICAS],
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The database's clock advances.
    ClockAdvances,
    /// The database's clock is set back.
    ClockGoesBack,
    /// A request arrives at a replica.
    Request(usize, usize),
    /// A round is committed.
    Round,
    /// A replica sends its message.
    Send(usize),
    /// The message gets the row's lock, moves the row, and commits: the move is visible.
    Commit(usize),
    /// The message's durable commit is done.
    Settle(usize),
    /// The message's reply arrives.
    Reply(usize),
    /// The replica's connection is lost.
    Disconnect(usize),
    /// The database crashes or fails over. So many queries of the chain are left.
    Crash(usize),
}

impl State {
    /// The row of `last_query`.
    fn row(&self) -> Time {
        self.chain.last().map(|&(_, queried)| queried)
    }
}

impl Chain {
    fn commit(&self, state: &mut State, number: usize) {
        let row = state.row();
        let replica = &mut state.replicas[number];
        let Some(message) = &mut replica.message else {
            return;
        };
        let previous = match self.variant {
            Variant::LastQueryInMemory => replica.last_reply.map(|reply| reply.queried),
            _ => row,
        };
        let queried = match (self.variant, row) {
            (Variant::NoGreatest, _) | (_, None) => message.sent_at,
            (_, Some(before)) => message.sent_at.max(before),
        };
        let round = match self.variant {
            Variant::UsersFromBeforeTheLock => message.sent_round,
            _ => state.round,
        };
        state
            .chain
            .extend(message.batch.iter().map(|&request| (request, queried)));
        message.end = state.chain.len();
        message.progress = Progress::Visible(Reply {
            previous,
            queried,
            round,
        });
    }

    fn settle(&self, state: &mut State, number: usize) {
        for (other, replica) in state.replicas.iter_mut().enumerate() {
            let Some(message) = &mut replica.message else {
                continue;
            };
            let Progress::Visible(reply) = message.progress else {
                continue;
            };
            if other == number {
                state.durable = state.durable.max(message.end);
            }
            if other == number || self.variant == Variant::AnotherSessionsCommit {
                message.progress = Progress::Durable(reply);
            }
        }
    }

    fn receive_reply(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(message) = replica.message.take() else {
            return;
        };
        let (Progress::Visible(mut reply) | Progress::Durable(mut reply)) = message.progress else {
            return;
        };
        if self.variant == Variant::UsersFromAfterTheCommit {
            reply.round = state.round;
        }
        replica.last_reply = Some(reply);
        let mut batch = message.batch;
        if self.variant == Variant::JoinAfterCommit {
            // Directly after its batch, even if the chain has moved on.
            let end = state
                .chain
                .iter()
                .position(|&(request, _)| batch.last() == Some(&request));
            let next = end.map_or(0, |end| end + 1);
            for (offset, request) in replica.queue.drain(..).enumerate() {
                state.chain.insert(next + offset, (request, reply.queried));
                batch.push(request);
            }
        }
        for (position, &request) in batch.iter().enumerate() {
            let first = position == 0 || self.variant == Variant::AllGetPrevious;
            state.requests[request] = Request::Answered {
                timestamp: if first {
                    reply.previous
                } else {
                    Some(reply.queried)
                },
                round: reply.round,
            };
        }
    }

    fn disconnect(&self, state: &mut State, number: usize) {
        if self.variant == Variant::ForgetsToSettle
            && let Some(message) = &state.replicas[number].message
            && let Progress::Visible(_) = message.progress
        {
            self.receive_reply(state, number);
            return;
        }
        let replica = &mut state.replicas[number];
        let Some(message) = replica.message.take() else {
            return;
        };
        for request in message.batch {
            state.requests[request] = match (self.variant, replica.last_reply) {
                (Variant::StaleReply, Some(reply)) => Request::Answered {
                    timestamp: Some(reply.queried),
                    round: reply.round,
                },
                _ => Request::Unavailable,
            };
        }
    }

    fn crash(&self, state: &mut State, left: usize) {
        state.has_crashed = true;
        state.chain.truncate(left);
        state.durable = left;
        for number in 0..REPLICAS {
            self.disconnect(state, number);
        }
    }
}

/// The position of a request in the chain.
fn position(state: &State, request: usize) -> Option<usize> {
    state.chain.iter().position(|&(other, _)| other == request)
}

/// The rounds whose users the answers show, in the order of the chain.
fn answered_rounds(state: &State) -> impl Iterator<Item = u8> {
    (state.chain.iter()).filter_map(move |&(request, _)| match state.requests[request] {
        Request::Answered { round, .. } => Some(round),
        _ => None,
    })
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 1,
            clock_went_back: false,
            round: 0,
            requests: [Request::NotSent; REQUESTS],
            answered_before: Default::default(),
            chain: Vec::new(),
            durable: 0,
            has_crashed: false,
            replicas: Default::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < LAST_MOMENT {
            actions.push(Action::ClockAdvances);
        }
        if !state.clock_went_back {
            actions.push(Action::ClockGoesBack);
        }
        if state.round < LAST_ROUND {
            actions.push(Action::Round);
        }
        // Requests are interchangeable, so they are sent in the order of their numbers.
        let next = (state.requests.iter()).position(|request| *request == Request::NotSent);
        for (number, replica) in state.replicas.iter().enumerate() {
            // So are the replicas: the first request goes to the first one.
            if next != Some(0) || number == 0 {
                actions.extend(next.map(|request| Action::Request(request, number)));
            }
            let Some(message) = &replica.message else {
                if !replica.queue.is_empty() {
                    actions.push(Action::Send(number));
                }
                continue;
            };
            actions.push(Action::Disconnect(number));
            match message.progress {
                Progress::Sent => actions.push(Action::Commit(number)),
                Progress::Visible(_) => {
                    actions.push(Action::Settle(number));
                    if self.variant == Variant::AnswerBeforeDurable {
                        actions.push(Action::Reply(number));
                    }
                }
                Progress::Durable(_) => actions.push(Action::Reply(number)),
            }
        }
        if !state.has_crashed {
            actions.extend((state.durable..=state.chain.len()).map(Action::Crash));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::ClockAdvances => state.clock += 1,
            Action::ClockGoesBack => {
                state.clock -= 1;
                state.clock_went_back = true;
            }
            Action::Request(request, number) => {
                state.answered_before[request] = (0..REQUESTS)
                    .filter(|&other| matches!(state.requests[other], Request::Answered { .. }))
                    .collect();
                state.requests[request] = Request::Waiting;
                state.replicas[number].queue.push(request);
            }
            Action::Round => state.round += 1,
            Action::Send(number) => {
                let sent_at = state.clock;
                // Nothing else depends on it, and it would double the states.
                let sent_round = match self.variant {
                    Variant::UsersFromBeforeTheLock => state.round,
                    _ => 0,
                };
                let replica = &mut state.replicas[number];
                replica.message = Some(Message {
                    batch: std::mem::take(&mut replica.queue),
                    sent_at,
                    sent_round,
                    end: 0,
                    progress: Progress::Sent,
                });
            }
            Action::Commit(number) => self.commit(&mut state, number),
            Action::Settle(number) => self.settle(&mut state, number),
            Action::Reply(number) => self.receive_reply(&mut state, number),
            Action::Disconnect(number) => self.disconnect(&mut state, number),
            Action::Crash(left) => self.crash(&mut state, left),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an answer has the time of the query right before it",
                |_, state: &State| {
                    (0..REQUESTS).all(|request| match state.requests[request] {
                        Request::Answered { timestamp, .. } => position(state, request)
                            .is_some_and(|position| {
                                let before = position.checked_sub(1);
                                timestamp == before.map(|before| state.chain[before].1)
                            }),
                        _ => true,
                    })
                },
            ),
            Property::always("time never goes back", |_, state: &State| {
                state.chain.windows(2).all(|pair| pair[0].1 <= pair[1].1)
            }),
            Property::always(
                "an answer that arrived before a request was sent precedes it in the chain",
                |_, state: &State| {
                    (0..REQUESTS).all(|request| match position(state, request) {
                        Some(own) => (state.answered_before[request].iter()).all(|&other| {
                            position(state, other).is_some_and(|position| position < own)
                        }),
                        None => true,
                    })
                },
            ),
            Property::always(
                "no answer shows users of a round that an answer before it had left behind",
                |_, state: &State| answered_rounds(state).is_sorted(),
            ),
            Property::sometimes("all requests are answered", |_, state: &State| {
                (state.requests.iter()).all(|request| matches!(request, Request::Answered { .. }))
            }),
            Property::sometimes(
                "a round comes between two answers of the chain",
                |_, state: &State| {
                    let mut rounds = answered_rounds(state);
                    rounds
                        .next()
                        .is_some_and(|first| rounds.any(|round| round > first))
                },
            ),
            Property::always("no crash loses an answered query", |_, state: &State| {
                (0..REQUESTS).all(|request| match state.requests[request] {
                    Request::Answered { .. } => position(state, request).is_some(),
                    _ => true,
                })
            }),
            Property::sometimes("a crash loses a visible move", |_, state: &State| {
                let lost = |request| {
                    state.requests[request] == Request::Unavailable
                        && position(state, request).is_none()
                };
                state.has_crashed
                    && (0..REQUESTS).any(lost)
                    && state
                        .requests
                        .iter()
                        .any(|request| matches!(request, Request::Answered { .. }))
            }),
            Property::sometimes("a committed batch gets 503", |_, state: &State| {
                state
                    .chain
                    .iter()
                    .any(|&(request, _)| state.requests[request] == Request::Unavailable)
            }),
        ]
    }
}
