//! What the pager counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Totals since the start, and what waits now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Pages taken in, those from an earlier run's outbox included.
    pub queued: u64,
    /// Pages that wait or are being sent.
    pub pending: u64,
    /// Requests begun.
    pub attempts: u64,
    /// Requests begun because another had not been answered in time.
    pub hedges: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Pages accepted.
    pub accepted: u64,
    /// Pages refused by the pager (400) or given up.
    pub refused: u64,
    /// Pages dropped because too many waited.
    pub dropped: u64,
    /// Pages that could not be written to the outbox (they are sent all the same).
    pub not_persisted: u64,
    /// Outcomes that found their queue full.
    pub outcomes_lost: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub queued: AtomicU64,
    pub pending: AtomicU64,
    pub attempts: AtomicU64,
    pub hedges: AtomicU64,
    pub failures: AtomicU64,
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub dropped: AtomicU64,
    pub not_persisted: AtomicU64,
    pub outcomes_lost: AtomicU64,
}

pub(crate) fn count(total: &AtomicU64) {
    total.fetch_add(1, Ordering::Relaxed);
}

impl Totals {
    pub fn read(&self) -> Counters {
        let get = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Counters {
            queued: get(&self.queued),
            pending: get(&self.pending),
            attempts: get(&self.attempts),
            hedges: get(&self.hedges),
            failures: get(&self.failures),
            accepted: get(&self.accepted),
            refused: get(&self.refused),
            dropped: get(&self.dropped),
            not_persisted: get(&self.not_persisted),
            outcomes_lost: get(&self.outcomes_lost),
        }
    }
}
