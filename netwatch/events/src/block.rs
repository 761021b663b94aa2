//! What the kernel tells about disks.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What a block request does (`REQ_OP_*` of `include/linux/blk_types.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockOperation {
    /// Reads sectors.
    Read,
    /// Writes sectors.
    Write,
    /// Empties the disk's volatile cache.
    Flush,
    /// Discards or zeroes sectors.
    Discard,
    /// Anything else: zones, passthrough commands.
    Other,
}

impl fmt::Display for BlockOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Other => "request",
        })
    }
}

/// A block request that was slow or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// When it completed.
    pub at: Timestamp,
    /// The disk, such as `nvme0n1`.
    pub device: String,
    /// What it did.
    pub operation: BlockOperation,
    /// Bytes completed.
    pub bytes: u32,
    /// From its insertion to its issue to the driver, where the kernel took the time.
    pub queue: Option<Duration>,
    /// From its issue to its completion.
    pub service: Duration,
    /// The errno, where it failed.
    pub error: Option<i32>,
}
