//! Percentiles in real time: one histogram (hdrhistogram) per series.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What is measured, and of whom. Every value is a duration in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "series")]
pub enum Series {
    /// Raw round-trip time of a peer's connections.
    Rtt {
        /// The peer.
        peer: IpAddr,
    },
    /// From SYN to ESTABLISHED, of connections that this host opens.
    Handshake {
        /// The peer.
        peer: IpAddr,
    },
    /// Time spent in `tcp_sendmsg`, per message.
    Send {
        /// The peer.
        peer: IpAddr,
    },
    /// Time spent in `tcp_recvmsg`, per message.
    Receive {
        /// The peer.
        peer: IpAddr,
    },
    /// A block request's time from its insertion to its issue to the driver.
    BlockQueue {
        /// The disk, such as `nvme0n1`.
        device: String,
        /// What it does.
        operation: BlockOperation,
    },
    /// A block request's time from its issue to its completion.
    BlockService {
        /// The disk.
        device: String,
        /// What it does.
        operation: BlockOperation,
    },
    /// Time that a watched thread waited for a CPU while runnable.
    RunQueue {
        /// The thread's name (`comm`).
        thread: String,
    },
    /// Time that a watched thread was off the CPU because it slept or blocked.
    OffCpu {
        /// The thread's name (`comm`).
        thread: String,
    },
    /// From a heartbeat in the kernel to its handler here.
    CollectorDelay,
}

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

/// All series.
#[derive(Debug, Default)]
pub struct Registry {
    series: BTreeMap<Series, Histogram<u32>>,
}

impl Registry {
    /// Records `count` values of `nanos`.
    pub fn record(&mut self, series: Series, nanos: u64, count: u64) {
        use std::collections::btree_map::Entry;
        let histogram = match self.series.entry(series) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match Histogram::new_with_bounds(128, 1 << 37, 2) {
                Ok(histogram) => entry.insert(histogram),
                Err(_) => return,
            },
        };
        histogram.saturating_record_n(nanos, u32::try_from(count).unwrap_or(u32::MAX));
    }
}
