use std::sync::atomic::{AtomicU64, Ordering};

/// What was counted since the start; shared between the thread and its handle.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) sent: AtomicU64,
    pub(crate) replies: AtomicU64,
    pub(crate) late_replies: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unmatched: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) results_dropped: AtomicU64,
    pub(crate) signals_dropped: AtomicU64,
    pub(crate) suspects_dropped: AtomicU64,
    pub(crate) receive_dropped: AtomicU64,
    pub(crate) netlink_restarts: AtomicU64,
    pub(crate) timer_lags: AtomicU64,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Probes that left.
    pub sent: u64,
    /// Probes answered in time.
    pub replies: u64,
    /// Probes answered after they had been reported lost.
    pub late_replies: u64,
    /// Probes reported lost.
    pub lost: u64,
    /// Probes that the kernel or a router refused, reported or not.
    pub refused: u64,
    /// Packets that passed the socket's filter and fit no probe on its way.
    pub unmatched: u64,
    /// Scheduled probes that were not sent: the thread stood still, or too many were on their way.
    pub skipped: u64,
    /// Results that the receiver's queue had no room for.
    pub results_dropped: u64,
    /// Timer lags and loss reports that the receiver's queue had no room for (states wait).
    pub signals_dropped: u64,
    /// Probes of suspects that were not sent: no room, no such egress, or no target.
    pub suspects_dropped: u64,
    /// Packets that the kernel dropped because the socket's buffer was full.
    pub receive_dropped: u64,
    /// Times that the interfaces' state was read anew because messages were lost.
    pub netlink_restarts: u64,
    /// Times that the thread woke more than 50 ms late.
    pub timer_lags: u64,
}

impl Shared {
    pub(crate) fn read(&self) -> Counters {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Counters {
            sent: get(&self.sent),
            replies: get(&self.replies),
            late_replies: get(&self.late_replies),
            lost: get(&self.lost),
            refused: get(&self.refused),
            unmatched: get(&self.unmatched),
            skipped: get(&self.skipped),
            results_dropped: get(&self.results_dropped),
            signals_dropped: get(&self.signals_dropped),
            suspects_dropped: get(&self.suspects_dropped),
            receive_dropped: get(&self.receive_dropped),
            netlink_restarts: get(&self.netlink_restarts),
            timer_lags: get(&self.timer_lags),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
