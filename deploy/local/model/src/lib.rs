//! Models of the two protocols that the service relies on: a round is done once per tick, and all
//! queries of all replicas form one chain. They are small enough to explore every interleaving.
//!
//! Each model runs as implemented, or as a variant with one defect, which the checker must refute.
//! Postgres itself is not modelled: its transactions, locks and statements are taken to do what
//! its documentation promises.

pub mod chain;
pub mod rounds;
