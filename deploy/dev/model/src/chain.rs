//! The chain of queries: the api's coalescing and `shared/src/last_query/answer.sql`, by two
//! replicas at once.
//!
//! A request may arrive at any moment. A replica has one statement in flight, for all requests
//! that waited when it was sent. A statement reads the clock when it is sent, and moves the row
//! when it commits; commits happen one after the other. Its reply may be lost before or after the
//! commit; its batch then gets a 503. The database's clock may advance at any moment, and may go
//! back once.

use stateright::{Model, Property};

const REPLICAS: usize = 2;
const REQUESTS: usize = 4;
/// The clock stops here. It bounds the exploration.
const LAST_MOMENT: i8 = 2;

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
    /// With this timestamp.
    Answered(Time),
    /// With 503.
    Unavailable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Statement {
    batch: Vec<usize>,
    sent_at: i8,
    /// The times of the query before the batch and of the batch, once it is committed.
    committed: Option<(Time, i8)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    queue: Vec<usize>,
    statement: Option<Statement>,
    last_reply: Option<(Time, i8)>,
}

/// The database, the replicas and the requests at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: i8,
    clock_went_back: bool,
    /// The row of `last_query`.
    row: Time,
    requests: [Request; REQUESTS],
    /// For each request, those that were answered before it was sent.
    answered_before: [Vec<usize>; REQUESTS],
    /// The chain: all queries in their one order, with their times.
    chain: Vec<(usize, i8)>,
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
    /// A replica sends its statement.
    Send(usize),
    /// The statement commits.
    Commit(usize),
    /// The statement's reply arrives.
    Reply(usize),
    /// The replica's connection is lost.
    Disconnect(usize),
}

impl Chain {
    fn commit(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = &mut replica.statement else {
            return;
        };
        let previous = match self.variant {
            Variant::LastQueryInMemory => replica.last_reply.map(|(_, queried)| queried),
            _ => state.row,
        };
        let queried = match (self.variant, state.row) {
            (Variant::NoGreatest, _) | (_, None) => statement.sent_at,
            (_, Some(before)) => statement.sent_at.max(before),
        };
        state.row = Some(queried);
        statement.committed = Some((previous, queried));
        state
            .chain
            .extend(statement.batch.iter().map(|&request| (request, queried)));
    }

    fn receive_reply(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = replica.statement.take() else {
            return;
        };
        let Some((previous, queried)) = statement.committed else {
            return;
        };
        replica.last_reply = statement.committed;
        let mut batch = statement.batch;
        if self.variant == Variant::JoinAfterCommit {
            // Directly after its batch, even if the chain has moved on.
            let end = state
                .chain
                .iter()
                .position(|&(request, _)| batch.last() == Some(&request));
            let next = end.map_or(0, |end| end + 1);
            for (offset, request) in replica.queue.drain(..).enumerate() {
                state.chain.insert(next + offset, (request, queried));
                batch.push(request);
            }
        }
        for (position, &request) in batch.iter().enumerate() {
            let first = position == 0 || self.variant == Variant::AllGetPrevious;
            let time = if first { previous } else { Some(queried) };
            state.requests[request] = Request::Answered(time);
        }
    }

    fn disconnect(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = replica.statement.take() else {
            return;
        };
        for request in statement.batch {
            state.requests[request] = match (self.variant, replica.last_reply) {
                (Variant::StaleReply, Some((_, queried))) => Request::Answered(Some(queried)),
                _ => Request::Unavailable,
            };
        }
    }
}

/// The position of a request in the chain.
fn position(state: &State, request: usize) -> Option<usize> {
    state.chain.iter().position(|&(other, _)| other == request)
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 1,
            clock_went_back: false,
            row: None,
            requests: [Request::NotSent; REQUESTS],
            answered_before: Default::default(),
            chain: Vec::new(),
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
        // Requests are interchangeable, so they are sent in the order of their numbers.
        let next = (state.requests.iter()).position(|request| *request == Request::NotSent);
        for (number, replica) in state.replicas.iter().enumerate() {
            actions.extend(next.map(|request| Action::Request(request, number)));
            match &replica.statement {
                None if replica.queue.is_empty() => {}
                None => actions.push(Action::Send(number)),
                Some(statement) => {
                    actions.push(Action::Disconnect(number));
                    actions.push(if statement.committed.is_some() {
                        Action::Reply(number)
                    } else {
                        Action::Commit(number)
                    });
                }
            }
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
                    .filter(|&other| matches!(state.requests[other], Request::Answered(_)))
                    .collect();
                state.requests[request] = Request::Waiting;
                state.replicas[number].queue.push(request);
            }
            Action::Send(number) => {
                let sent_at = state.clock;
                let replica = &mut state.replicas[number];
                replica.statement = Some(Statement {
                    batch: std::mem::take(&mut replica.queue),
                    sent_at,
                    committed: None,
                });
            }
            Action::Commit(number) => self.commit(&mut state, number),
            Action::Reply(number) => self.receive_reply(&mut state, number),
            Action::Disconnect(number) => self.disconnect(&mut state, number),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an answer has the time of the query right before it",
                |_, state: &State| {
                    (0..REQUESTS).all(|request| match state.requests[request] {
                        Request::Answered(time) => {
                            position(state, request).is_some_and(|position| {
                                time == position.checked_sub(1).map(|before| state.chain[before].1)
                            })
                        }
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
            Property::sometimes("all requests are answered", |_, state: &State| {
                (state.requests.iter()).all(|request| matches!(request, Request::Answered(_)))
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
