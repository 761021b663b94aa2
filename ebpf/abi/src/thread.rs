use crate::histogram;

/// Threads of watched processes at once.
pub const THREADS: u32 = 2048;

/// Buckets of a thread's histograms: each is two of [`bucket`](crate::bucket)'s.
pub const THREAD_BUCKETS: usize = 256;

/// How many are kept of those that took a thread's CPU.
pub const TAKERS: usize = 4;

/// A thread's bucket of a duration in nanoseconds: within 1/8 of the value.
#[inline(always)]
#[must_use]
pub const fn thread_bucket(nanos: u64) -> u32 {
    histogram::bucket(nanos) >> 1
}

/// What a thread's bucket stands for: its middle, in nanoseconds.
#[must_use]
pub const fn thread_midpoint(bucket: u32) -> u64 {
    let low = histogram::lower_bound(2 * bucket);
    low + (histogram::lower_bound(2 * bucket + 2) - low) / 2
}

/// What a thread is doing.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Not known yet.
    Unknown = 0,
    /// On a CPU.
    Running = 1,
    /// Runnable, and another has the CPU that it was taken from.
    Preempted = 2,
    /// Runnable since it was woken.
    Woken = 3,
    /// Sleeps and can be woken by a signal.
    Sleeping = 4,
    /// Sleeps and cannot: it waits for a disk or a lock.
    Blocked = 5,
}

/// Who took a thread's CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Thread group id; 0: the idle task, where the thread's cgroup had used up its quota.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub comm: [u8; 16],
    /// How often. In the list of the most frequent: at most so often, since the rarest give way.
    pub count: u64,
    /// The longest wait that followed, in nanoseconds.
    pub longest: u64,
}

/// What is known of one thread. Written by programs; user space empties it once the thread is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Thread id; 0: free.
    pub tid: u32,
    /// Thread group id.
    pub tgid: u32,
    /// The thread's name.
    pub comm: [u8; 16],
    /// A [`Doing`].
    pub doing: u8,
    /// Not zero once the thread has ended.
    pub ended: u8,
    /// Which of `takers` took the CPU last.
    pub taker: u8,
    /// Always zero.
    pub reserved: [u8; 5],
    /// Since when it is doing that, in nanoseconds of `CLOCK_MONOTONIC`.
    pub since: u64,
    /// When a long wait was last told, in nanoseconds.
    pub told_at: u64,
    /// Times it gave the CPU away.
    pub voluntary: u64,
    /// Times it was taken from it.
    pub preempted: u64,
    /// Waits for a CPU.
    pub waits: u64,
    /// Their sum in nanoseconds.
    pub waited: u64,
    /// The longest.
    pub longest: u64,
    /// Nanoseconds slept.
    pub slept: u64,
    /// Nanoseconds blocked.
    pub blocked: u64,
    /// Who took the CPU last.
    pub last: Taker,
    /// Who takes it most often.
    pub takers: [Taker; TAKERS],
    /// Waits for a CPU.
    pub run_queue: [u32; THREAD_BUCKETS],
    /// Sleeps.
    pub off_cpu: [u32; THREAD_BUCKETS],
}

/// A watched thread waited long for a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WaitRecord {
    /// When it got the CPU: `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// [`WaitRecord::KIND`].
    pub kind: u8,
    /// What the thread did while it waited: [`Doing::Preempted`] or [`Doing::Woken`].
    pub doing: u8,
    /// Always zero.
    pub reserved: [u8; 2],
    /// Thread id.
    pub tid: u32,
    /// Thread group id.
    pub tgid: u32,
    /// Thread group id of who had the CPU: after a preemption who took it, else who had it last.
    pub by_tgid: u32,
    /// Its thread id.
    pub by_tid: u32,
    /// Always zero.
    pub reserved2: u32,
    /// Nanoseconds waited.
    pub waited: u64,
    /// The thread's name.
    pub comm: [u8; 16],
    /// Its name.
    pub by_comm: [u8; 16],
}

impl WaitRecord {
    /// The record's kind.
    pub const KIND: u8 = 32;
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Taker>(), 40);
        assert_eq!(offset_of!(Thread, since), 32);
        assert_eq!(offset_of!(Thread, last), 32 + 9 * 8);
        assert_eq!(size_of::<Thread>(), 32 + 9 * 8 + 5 * 40 + 2 * 1024);
        assert_eq!(align_of::<Thread>(), 8);
        assert_eq!(size_of::<WaitRecord>(), 72);
    }

    #[test]
    fn buckets_are_within_an_eighth() {
        for index in 8..THREAD_BUCKETS as u32 - 1 {
            let middle = thread_midpoint(index);
            assert_eq!(thread_bucket(middle), index);
            let low = histogram::lower_bound(2 * index);
            assert!((middle - low) * 16 <= low, "{index}");
        }
        assert_eq!(thread_bucket(u64::MAX), THREAD_BUCKETS as u32 - 1);
    }
}
