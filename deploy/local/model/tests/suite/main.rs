//! All interleavings of both protocols: the implemented ones keep every promise, and each broken
//! variant is refuted.

#![allow(missing_docs, reason = "a test's name says what it shows")]

use std::fmt::Debug;
use std::hash::Hash;

use model::chain::{self, Chain};
use model::rounds::{self, Rounds};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores all states. Each promise must hold in every one, and each `sometimes` in one.
fn assert_kept<Protocol>(protocol: Protocol)
where
    Protocol: Model + Debug + Send + Sync + 'static,
    Protocol::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    Protocol::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let name = format!("{protocol:?}");
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{name}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// Explores until it finds a state in which the promise does not hold.
fn assert_refuted<Protocol>(protocol: Protocol, promise: &'static str)
where
    Protocol: Model + Send + Sync + 'static,
    Protocol::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    Protocol::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let found = HasDiscoveries::AnyOf([promise].into());
    let checker = protocol.checker().threads(2).finish_when(found);
    checker.spawn_bfs().join().assert_any_discovery(promise);
}

fn rounds_of(variant: rounds::Variant) -> Rounds {
    Rounds {
        variant,
        workers: 2,
    }
}

#[test]
fn rounds_keep_every_promise_in_every_interleaving() {
    assert_kept(rounds_of(rounds::Variant::AsImplemented));
}

#[test]
fn without_a_shared_fence_under_the_lock_a_tick_is_done_twice() {
    for variant in [
        rounds::Variant::NoFence,
        rounds::Variant::FenceInMemory,
        rounds::Variant::FenceBeforeLock,
        rounds::Variant::LockReleasedEarly,
    ] {
        assert_refuted(rounds_of(variant), "each tick is done once");
    }
}

#[test]
fn two_commits_leave_half_a_round() {
    assert_refuted(
        rounds_of(rounds::Variant::TwoCommits),
        "points and minimum come from one round",
    );
}

#[test]
fn a_cooldown_in_memory_is_lost_at_a_restart() {
    assert_refuted(
        rounds_of(rounds::Variant::CooldownInMemory),
        "a round that was still running at the next tick is followed by a cooldown",
    );
}

#[test]
fn a_fence_slightly_ahead_of_the_clock_must_count() {
    for variant in [rounds::Variant::NoTolerance, rounds::Variant::AheadOfBegin] {
        assert_refuted(rounds_of(variant), "each tick is done once");
    }
}

#[test]
fn without_a_limit_a_clock_that_was_ahead_stops_rounds() {
    for variant in [
        rounds::Variant::FenceFarAhead,
        rounds::Variant::CooldownFarAhead,
    ] {
        assert_refuted(
            rounds_of(variant),
            "a time far ahead of the clock does not stop rounds",
        );
    }
}

#[test]
fn queries_form_one_chain_in_every_interleaving() {
    assert_kept(Chain {
        variant: chain::Variant::AsImplemented,
    });
}

#[test]
fn a_time_of_another_query_is_detected() {
    for variant in [
        chain::Variant::AllGetPrevious,
        chain::Variant::LastQueryInMemory,
        chain::Variant::StaleReply,
    ] {
        assert_refuted(
            Chain { variant },
            "an answer has the time of the query right before it",
        );
    }
}

#[test]
fn without_greatest_a_clock_that_goes_back_takes_the_chain_back() {
    let variant = chain::Variant::NoGreatest;
    assert_refuted(Chain { variant }, "time never goes back");
}

#[test]
fn a_request_that_joins_after_the_commit_comes_too_early_in_the_chain() {
    let variant = chain::Variant::JoinAfterCommit;
    assert_refuted(
        Chain { variant },
        "an answer that arrived before a request was sent precedes it in the chain",
    );
}

#[test]
fn users_that_are_not_read_under_the_rows_lock_go_back_to_an_older_round() {
    for variant in [
        chain::Variant::UsersFromBeforeTheLock,
        chain::Variant::UsersFromAfterTheCommit,
    ] {
        assert_refuted(
            Chain { variant },
            "no answer shows users of a round that an answer before it had left behind",
        );
    }
}

#[test]
fn an_answer_that_leaves_before_it_is_durable_can_be_lost() {
    for variant in [
        chain::Variant::AnswerBeforeDurable,
        chain::Variant::AnotherSessionsCommit,
        chain::Variant::ForgetsToSettle,
    ] {
        assert_refuted(Chain { variant }, "no crash loses an answered query");
    }
}
