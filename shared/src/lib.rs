//! What both programs share, in three parts: the [`domain`] with all of its SQL, Postgres ([`db`]),
//! and what a process needs besides ([`program`]). Nothing here serves HTTP or depends on a
//! scheduler.

pub mod db;
pub mod domain;
pub mod program;
