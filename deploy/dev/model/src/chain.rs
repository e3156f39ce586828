//! The chain of queries: `api/src/coalesce.rs` and `shared/src/last_query/answer.sql`, by two replicas at once.
//!
//! Requests come at any moment. A replica has one statement under way, for all that wait when it is sent. The statement
//! reads the clock when it is sent, and moves the row on when it commits, one after the other. Its answer may be lost,
//! before or after that: then the batch is refused. The database's clock goes on at any moment, and may once go back.

use stateright::{Model, Property};

/// Replicas, requests, and the end of time.
const REPLICAS: usize = 2;
const REQUESTS: usize = 4;
const END: i8 = 2;

/// As the code does it, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As the code does it.
    Faithful,
    /// All of a batch get the time of the query before the batch.
    AllGetPrevious,
    /// The row takes the clock's time, also when that is earlier than its own.
    NoGreatest,
    /// Who comes before the answer is in the batch, even after its commit.
    LateJoiners,
    /// A replica remembers the last query by itself.
    MemoryOfReplica,
    /// A batch whose answer was lost gets the answer before it.
    OldAnswer,
}

/// Replicas over one database.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What they do.
    pub variant: Variant,
}

type Time = Option<i8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Unasked,
    Waiting,
    Answered(Time),
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Statement {
    batch: Vec<usize>,
    sent: i8,
    /// The times before and of the batch, once it is committed.
    committed: Option<(Time, i8)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    line: Vec<usize>,
    statement: Option<Statement>,
    /// The last answer that it got.
    last: Option<(Time, i8)>,
}

/// What there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: i8,
    went_back: bool,
    row: Time,
    requests: [Request; REQUESTS],
    /// Whom each request saw answered before it was asked.
    before: [Vec<usize>; REQUESTS],
    /// All queries in their one order, with their times.
    order: Vec<(usize, i8)>,
    replicas: [Replica; REPLICAS],
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The database's clock goes on.
    Clock,
    /// The database's clock is set back.
    ClockBack,
    /// A request comes to a replica.
    Ask(usize, usize),
    /// A replica sends its statement.
    Send(usize),
    /// The statement is done and on disk.
    Commit(usize),
    /// Its answer arrives.
    Arrive(usize),
    /// Its connection is lost.
    Lose(usize),
}

impl Chain {
    fn commit(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = &mut replica.statement else {
            return;
        };
        let previous = match self.variant {
            Variant::MemoryOfReplica => replica.last.map(|(_, queried)| queried),
            _ => state.row,
        };
        let queried = match (self.variant, state.row) {
            (Variant::NoGreatest, _) | (_, None) => statement.sent,
            (_, Some(before)) => statement.sent.max(before),
        };
        state.row = Some(queried);
        statement.committed = Some((previous, queried));
        state
            .order
            .extend(statement.batch.iter().map(|&request| (request, queried)));
    }

    fn arrive(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = replica.statement.take() else {
            return;
        };
        let Some((previous, queried)) = statement.committed else {
            return;
        };
        replica.last = statement.committed;
        let mut batch = statement.batch;
        if self.variant == Variant::LateJoiners {
            // Right behind their batch, wherever the chain is by now.
            let end = state
                .order
                .iter()
                .position(|&(request, _)| batch.last() == Some(&request));
            let place = end.map_or(0, |end| end + 1);
            for (offset, request) in replica.line.drain(..).enumerate() {
                state.order.insert(place + offset, (request, queried));
                batch.push(request);
            }
        }
        for (place, &request) in batch.iter().enumerate() {
            let first = place == 0 || self.variant == Variant::AllGetPrevious;
            let time = if first { previous } else { Some(queried) };
            state.requests[request] = Request::Answered(time);
        }
    }

    fn lose(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Some(statement) = replica.statement.take() else {
            return;
        };
        for request in statement.batch {
            state.requests[request] = match (self.variant, replica.last) {
                (Variant::OldAnswer, Some((_, queried))) => Request::Answered(Some(queried)),
                _ => Request::Refused,
            };
        }
    }
}

/// Where a request is in the order of all.
fn place(state: &State, request: usize) -> Option<usize> {
    state.order.iter().position(|&(other, _)| other == request)
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 1,
            went_back: false,
            row: None,
            requests: [Request::Unasked; REQUESTS],
            before: Default::default(),
            order: Vec::new(),
            replicas: Default::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < END {
            actions.push(Action::Clock);
        }
        if !state.went_back {
            actions.push(Action::ClockBack);
        }
        // They are all alike: the next one comes next.
        let next = (state.requests.iter()).position(|request| *request == Request::Unasked);
        for (number, replica) in state.replicas.iter().enumerate() {
            actions.extend(next.map(|request| Action::Ask(request, number)));
            match &replica.statement {
                None if replica.line.is_empty() => {}
                None => actions.push(Action::Send(number)),
                Some(statement) => {
                    actions.push(Action::Lose(number));
                    actions.push(if statement.committed.is_some() {
                        Action::Arrive(number)
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
            Action::Clock => state.clock += 1,
            Action::ClockBack => {
                state.clock -= 1;
                state.went_back = true;
            }
            Action::Ask(request, number) => {
                state.before[request] = (0..REQUESTS)
                    .filter(|&other| matches!(state.requests[other], Request::Answered(_)))
                    .collect();
                state.requests[request] = Request::Waiting;
                state.replicas[number].line.push(request);
            }
            Action::Send(number) => {
                let sent = state.clock;
                let replica = &mut state.replicas[number];
                replica.statement = Some(Statement {
                    batch: std::mem::take(&mut replica.line),
                    sent,
                    committed: None,
                });
            }
            Action::Commit(number) => self.commit(&mut state, number),
            Action::Arrive(number) => self.arrive(&mut state, number),
            Action::Lose(number) => self.lose(&mut state, number),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an answer has the time of the query right before it",
                |_, state: &State| {
                    (0..REQUESTS).all(|request| match state.requests[request] {
                        Request::Answered(time) => place(state, request).is_some_and(|place| {
                            time == place.checked_sub(1).map(|before| state.order[before].1)
                        }),
                        _ => true,
                    })
                },
            ),
            Property::always("time never goes back", |_, state: &State| {
                state.order.windows(2).all(|pair| pair[0].1 <= pair[1].1)
            }),
            Property::always(
                "what was answered before a question was asked comes before it",
                |_, state: &State| {
                    (0..REQUESTS).all(|request| match place(state, request) {
                        Some(own) => (state.before[request].iter())
                            .all(|&other| place(state, other).is_some_and(|place| place < own)),
                        None => true,
                    })
                },
            ),
            Property::sometimes("all are answered", |_, state: &State| {
                (state.requests.iter()).all(|request| matches!(request, Request::Answered(_)))
            }),
            Property::sometimes("a committed batch is refused", |_, state: &State| {
                state
                    .order
                    .iter()
                    .any(|&(request, _)| state.requests[request] == Request::Refused)
            }),
        ]
    }
}
