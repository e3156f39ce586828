//! What each action does to the state.

use super::state::{Message, Progress, Replica, Reply, Request, State};
use super::{Chain, REPLICAS, REQUESTS, Variant};

impl State {
    pub(super) fn arrive(&mut self, request: usize, replica: usize) {
        self.answered_before[request] = (0..REQUESTS)
            .filter(|&other| self.requests[other].is_answered())
            .collect();
        self.requests[request] = Request::Waiting;
        self.replicas[replica].queue.push(request);
    }
}

impl Chain {
    pub(super) fn send(&self, state: &mut State, replica: usize) {
        // Nothing else depends on it, and it would double the states.
        let sent_round = match self.variant {
            Variant::UsersFromBeforeTheLock => state.round,
            _ => 0,
        };
        let Replica { queue, message, .. } = &mut state.replicas[replica];
        *message = Some(Message {
            requests: std::mem::take(queue),
            sent_at: state.clock,
            sent_round,
            end: 0,
            progress: Progress::Sent,
        });
    }

    pub(super) fn commit(&self, state: &mut State, replica: usize) {
        let row = state.last_queried();
        let replica = &mut state.replicas[replica];
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
        let moves = message.requests.iter().map(|&request| (request, queried));
        state.chain.extend(moves);
        message.end = state.chain.len();
        message.progress = Progress::Visible(Reply {
            previous,
            queried,
            round,
        });
    }

    pub(super) fn settle(&self, state: &mut State, replica: usize) {
        for (other, Replica { message, .. }) in state.replicas.iter_mut().enumerate() {
            let Some(message) = message else { continue };
            let Progress::Visible(reply) = message.progress else {
                continue;
            };
            if other == replica {
                state.durable = state.durable.max(message.end);
            }
            if other == replica || self.variant == Variant::AnotherSessionsCommit {
                message.progress = Progress::Durable(reply);
            }
        }
    }

    pub(super) fn receive_reply(&self, state: &mut State, replica: usize) {
        let replica = &mut state.replicas[replica];
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
        let mut requests = message.requests;
        if self.variant == Variant::JoinAfterCommit {
            // Directly after the message's requests, even if the chain has moved on.
            let end = state
                .chain
                .iter()
                .position(|&(request, _)| requests.last() == Some(&request));
            let next = end.map_or(0, |end| end + 1);
            for (offset, request) in replica.queue.drain(..).enumerate() {
                state.chain.insert(next + offset, (request, reply.queried));
                requests.push(request);
            }
        }
        for (index, &request) in requests.iter().enumerate() {
            let is_first = index == 0 || self.variant == Variant::AllGetPrevious;
            state.requests[request] = Request::Answered {
                timestamp: if is_first {
                    reply.previous
                } else {
                    Some(reply.queried)
                },
                round: reply.round,
            };
        }
    }

    pub(super) fn disconnect(&self, state: &mut State, replica: usize) {
        if self.variant == Variant::ForgetsToSettle
            && let Some(message) = &state.replicas[replica].message
            && let Progress::Visible(_) = message.progress
        {
            self.receive_reply(state, replica);
            return;
        }
        let replica = &mut state.replicas[replica];
        let Some(message) = replica.message.take() else {
            return;
        };
        for request in message.requests {
            state.requests[request] = match (self.variant, replica.last_reply) {
                (Variant::StaleReply, Some(reply)) => Request::Answered {
                    timestamp: Some(reply.queried),
                    round: reply.round,
                },
                _ => Request::Unavailable,
            };
        }
    }

    pub(super) fn crash(&self, state: &mut State, left: usize) {
        state.has_crashed = true;
        state.chain.truncate(left);
        state.durable = left;
        for replica in 0..REPLICAS {
            self.disconnect(state, replica);
        }
    }
}
