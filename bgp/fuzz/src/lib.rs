//! Random input for the BGP codec: targets that check invariants and compare with other decoders
//! where those define the answer, and a mutator that knows what messages look like.
//!
//! Runs on the stable toolchain, without coverage: inputs come from a corpus and from a generator
//! of messages that are nearly right. `cargo xtask fuzz TARGET`; the committed corpus is replayed
//! by `cargo test`.

pub mod allocation;
pub mod generate;
mod generate_stations;
mod oracles;
pub mod random;
mod station_oracles;
mod stations;
pub mod targets;

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;
