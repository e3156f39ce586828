//! The two protocols that everything else relies on, small enough that all interleavings can be explored: how a round is
//! done once per tick, and how all queries of all replicas form one chain.
//!
//! A model is as the code does it, or broken in one of a few ways, which the checker must refute. What is not in it:
//! Postgres itself, whose transactions, locks and statements are taken for what its documentation says.

pub mod chain;
pub mod rounds;
