//! What was seen and what was lost, by stage and cause.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use events::{BlockRequest, LossStage, Timestamp};

use crate::block::DiskCounters;
use crate::kernel::ProgramStats;
use crate::percentiles::{Registry, Usage};

/// A snapshot of all counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that programs put in the urgent ring.
    pub urgent_records: u64,
    /// Records lost because it was full.
    pub urgent_lost: u64,
    /// Records that programs put in the bulk ring.
    pub bulk_records: u64,
    /// Records lost because it was full.
    pub bulk_lost: u64,
    /// Times a connection found no slot in the table.
    pub table_full: u64,
    /// Times a process could not be watched because too many are.
    pub watched_full: u64,
    /// Times a step of a watched thread was not seen because too many threads are watched.
    pub threads_full: u64,
    /// Times a watched thread left a CPU and was not seen to have got it: the kernel did not run the
    /// program.
    pub switches_missed: u64,
    /// Times a cgroup could not be watched because too many are.
    pub cgroups_full: u64,
    /// Long waits that nobody asked for in time.
    pub long_waits_dropped: u64,
    /// Slots taken.
    pub slots_taken: u64,
    /// Slots given back by programs.
    pub slots_freed: u64,
    /// Slots taken back by reconciliation: their connections no longer exist.
    pub slots_orphaned: u64,
    /// Slots in use, as last swept.
    pub slots_in_use: u64,
    /// Calls that sent, summed over connections.
    pub sends: u64,
    /// Segments received, summed over connections.
    pub segments: u64,
    /// Records that could not be read.
    pub malformed: u64,
    /// Events put in the sink.
    pub delivered: u64,
    /// Samples dropped because the sink was full.
    pub samples_dropped: u64,
    /// Other events dropped because the sink was full for too long.
    pub edges_dropped: u64,
    /// Connections not followed because too many are.
    pub untracked: u64,
    /// Sweeps of the table.
    pub sweeps: u64,
    /// Connections found by the kernel's own list.
    pub found: u64,
    /// Connections that it no longer had.
    pub gone: u64,
    /// Reconciliations that failed or were cut short.
    pub reconcile_failed: u64,
    /// Requests issued to disks that were not known yet.
    pub disk_unknown: u64,
    /// Disks for which there was no place.
    pub disk_overflow: u64,
    /// Block requests not timed because too many were under way.
    pub requests_lost: u64,
    /// Calls of `tcp_sendmsg` and `tcp_recvmsg` that were told of.
    pub messages: u64,
    /// Calls that would have waited (EAGAIN): no messages.
    pub messages_again: u64,
    /// Messages whose call's entry was not seen: the time spent is not known.
    pub messages_unpaired: u64,
    /// Calls whose return was not seen.
    pub messages_abandoned: u64,
    /// Datagrams that watched threads sent.
    pub udp_sent: u64,
    /// Datagrams that watched threads received.
    pub udp_received: u64,
    /// Sends not recorded one by one because the thread sends often.
    pub udp_unrecorded: u64,
    /// Records of single calls (messages, datagrams) that programs put in the bulk ring.
    pub calls: u64,
    /// Records of single calls lost because it was full.
    pub calls_lost: u64,
    /// Records of single calls put in their sink.
    pub records_delivered: u64,
    /// Records of single calls dropped because their sink was full for too long.
    pub records_dropped: u64,
    /// Heartbeats handled.
    pub heartbeats: u64,
    /// Times that no heartbeat was handled for a second because this side was late.
    pub stalls: u64,
    /// Times that none was handled for a second because the kernel sent none.
    pub heartbeat_gaps: u64,
    /// The percentiles' own account.
    pub percentiles: Usage,
    /// Each program's own account.
    pub programs: Vec<ProgramStats>,
}

impl Counters {
    /// Losses that lower the detector's confidence, by stage.
    #[must_use]
    pub fn losses(&self) -> [(LossStage, u64); 4] {
        [
            (LossStage::UrgentRing, self.urgent_lost),
            (LossStage::BulkRing, self.bulk_lost),
            (LossStage::SocketTable, self.table_full + self.untracked),
            (LossStage::Queue, self.samples_dropped + self.edges_dropped),
        ]
    }
}

/// What the collector's thread keeps and others may look at.
#[derive(Debug, Default)]
pub struct Shared {
    pub slots_orphaned: AtomicU64,
    pub slots_invited: AtomicU64,
    pub slots_in_use: AtomicU64,
    pub sends: AtomicU64,
    pub segments: AtomicU64,
    pub malformed: AtomicU64,
    pub delivered: AtomicU64,
    pub samples_dropped: AtomicU64,
    pub edges_dropped: AtomicU64,
    pub untracked: AtomicU64,
    pub sweeps: AtomicU64,
    pub found: AtomicU64,
    pub gone: AtomicU64,
    pub reconcile_failed: AtomicU64,
    pub disk_overflow: AtomicU64,
    pub messages: AtomicU64,
    pub records_delivered: AtomicU64,
    pub records_dropped: AtomicU64,
    pub disks: Mutex<Vec<DiskCounters>>,
    pub long_waits_dropped: AtomicU64,
    pub heartbeats: AtomicU64,
    pub stalls: AtomicU64,
    pub heartbeat_gaps: AtomicU64,
    /// The worst of the slow block requests of each batch, until somebody takes them.
    pub slow: Mutex<VecDeque<BlockRequest>>,
    /// Until then somebody wants to know of everything that moves: nanoseconds.
    pub attend_until: AtomicU64,
    registry: Mutex<Registry>,
}

impl Shared {
    /// Somebody wants to know of everything that moves.
    pub fn attentive(&self, now: Timestamp) -> bool {
        now.as_nanos() < self.attend_until.load(Ordering::Relaxed)
    }

    /// The percentiles. Held for a batch at most.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        // Histograms are whole after every record, so a panic elsewhere does not spoil them.
        lock(&self.registry)
    }
}

/// Takes a lock. Nothing panics while it holds one of these.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts. The values are independent of each other, so no order is needed.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
