//! The incident journal in SQLite, and the report made from it.
//!
//! The daemon writes through a [`Journal`]: a thread of its own behind a bounded queue, so that a slow
//! disk never holds up the engine. The command line reads with a [`Reader`] from another process while
//! the daemon writes (WAL mode).
//!
//! **Durability.** WAL with `synchronous=NORMAL`: a killed process loses nothing that was committed,
//! and a batch is committed as soon as the queue is empty. A loss of power can take the last
//! transactions, but never damages the file. A batch with a `Planned` entry is committed with
//! `synchronous=FULL`: what was about to be done to the host's routes survives a loss of power too.
//!
//! **Bounds.** Number and age of incidents and the size of the file are limited; the oldest incidents
//! go first. When the disk is full, entries wait in memory up to a limit and are counted beyond it.

mod read;
mod report;
mod schema;
mod text;
mod write;

pub use read::{IncidentLine, ReadError, Reader};
pub use report::{EvidenceLine, Header, Line, Report, SCHEMA, Times};
pub use text::{TextStyle, clean, incidents_text};
pub use write::{Counters, Journal, JournalError, Retention};
