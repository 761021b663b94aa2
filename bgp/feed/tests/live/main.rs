//! The feed against a real BIRD 2 on loopback, and against raw sockets that break the rules.

mod bird;
mod feed;
mod raw;
mod sessions;
