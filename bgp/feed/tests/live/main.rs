//! The feed against a real BIRD 2, and against raw sockets that break the rules. Each test has a
//! network namespace of its own, which ends with its thread and its BIRD. Needs root.

mod bird;
mod feed;
mod limits;
mod namespace;
mod raw;
mod router;
mod rpki;
mod rules;
