//! The chain of queries: the api's coalescing and the statements of `shared/src/domain/last_query`, by two
//! replicas at once, beside a worker's round.
//!
//! A request may arrive at any moment. A replica has one message in flight, for all requests that
//! waited when it was sent: all queries are equal here, so one message answers a batch. A message
//! reads the clock when it is sent. (Postgres reads it again after a wait for the row; the earlier
//! time is the harder case.) When it has the row's lock it moves the row, reads the users, and
//! commits, in one step here: nobody else can move the row in between. That makes the move visible
//! and frees the row. A later step makes it durable, with all moves before it. (A plain durable
//! commit is these two steps with none in between.) The reply may be lost at any time; its requests
//! then get 503. A round may be committed between any two steps. The database's clock may advance
//! at any moment, and may go back once.
//!
//! The database may crash, or fail over to its synchronous standby, once. All connections are lost,
//! and of the moves that are not durable, any number of the last ones.

mod properties;
mod state;
mod steps;

use stateright::{Model, Property};

pub use state::State;
use state::{Progress, Replica, Request};

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
    /// Every request of a message gets the time of the query before the message.
    AllGetPrevious,
    /// The row takes the clock's time even when that is earlier than its own.
    NoGreatest,
    /// A request that arrives before the reply joins its message, even after the commit.
    JoinAfterCommit,
    /// A replica keeps the last query in its own memory.
    LastQueryInMemory,
    /// Requests whose reply is lost get the reply of the message before.
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

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields number the replicas and the requests"
)]
pub enum Action {
    /// The database's clock advances.
    ClockAdvances,
    /// The database's clock is set back.
    ClockGoesBack,
    /// A request arrives at a replica.
    Arrive { request: usize, replica: usize },
    /// A round is committed.
    CommitRound,
    /// A replica sends its message.
    Send { replica: usize },
    /// The message gets the row's lock, moves the row, and commits: the move is visible.
    Commit { replica: usize },
    /// The message's durable commit is done.
    Settle { replica: usize },
    /// The message's reply arrives.
    ReceiveReply { replica: usize },
    /// The replica's connection is lost.
    Disconnect { replica: usize },
    /// The database crashes or fails over. Of the chain, so many queries are left.
    Crash { left: usize },
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
            actions.push(Action::CommitRound);
        }
        // Requests are interchangeable, so they are sent in the order of their numbers.
        let next = (state.requests.iter()).position(|request| *request == Request::NotSent);
        for (replica, Replica { queue, message, .. }) in state.replicas.iter().enumerate() {
            // So are the replicas: the first request goes to the first one.
            if next != Some(0) || replica == 0 {
                actions.extend(next.map(|request| Action::Arrive { request, replica }));
            }
            let Some(message) = message else {
                if !queue.is_empty() {
                    actions.push(Action::Send { replica });
                }
                continue;
            };
            actions.push(Action::Disconnect { replica });
            match message.progress {
                Progress::Sent => actions.push(Action::Commit { replica }),
                Progress::Visible(_) => {
                    actions.push(Action::Settle { replica });
                    if self.variant == Variant::AnswerBeforeDurable {
                        actions.push(Action::ReceiveReply { replica });
                    }
                }
                Progress::Durable(_) => actions.push(Action::ReceiveReply { replica }),
            }
        }
        if !state.has_crashed {
            let left = state.durable..=state.chain.len();
            actions.extend(left.map(|left| Action::Crash { left }));
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
            Action::CommitRound => state.round += 1,
            Action::Arrive { request, replica } => state.arrive(request, replica),
            Action::Send { replica } => self.send(&mut state, replica),
            Action::Commit { replica } => self.commit(&mut state, replica),
            Action::Settle { replica } => self.settle(&mut state, replica),
            Action::ReceiveReply { replica } => self.receive_reply(&mut state, replica),
            Action::Disconnect { replica } => self.disconnect(&mut state, replica),
            Action::Crash { left } => self.crash(&mut state, left),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
