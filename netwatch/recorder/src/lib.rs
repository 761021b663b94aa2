//! The flight recorder: everything that the engine was fed and everything that it asked for.
//!
//! ```text
//! engine task ──[`Recorder`]: inputs and effects, encoded in chunks; copies of the engine, rarely──▶
//!     worker thread: compresses, keeps the last minute in a bounded ring
//!         an incident opens ──▶ a file: header, the ring from 60 s before the onset, then what follows
//! file ──[`Reader`]──▶ [`replay`]: the same engine again, its effects compared byte for byte
//! ```
//!
//! The format is described in `docs/replay.md`. What is compared and how other parameters are tried
//! is in [`replay`] and [`Changes`].

mod chunk;
mod folder;
mod frame;
mod read;
mod recorder;
mod replay;
mod ring;
mod story;
mod what_if;
mod worker;

pub use chunk::{Chunk, ChunkError, ChunkHead, Encoder, Record};
pub use folder::{EXTENSION, RecordingInfo, find, list};
pub use frame::{FORMAT, Frame, Header, Kind};
pub use read::{Damage, Part, ReadError, Reader};
pub use recorder::{Counters, Recorder, Settings};
pub use replay::{Difference, Options, Replayed, Told, replay};
pub use ring::Ring;
pub use story::{Story, stories};
pub use what_if::{Changes, Key, WhatIfError, keys};
