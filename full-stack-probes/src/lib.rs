//! Kernel collection: offsets from BTF, the attach ladder, rings drained in batches, percentiles.

pub mod btf;
mod offsets;
mod probes;
