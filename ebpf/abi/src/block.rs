use crate::BUCKETS;

/// Disks that can be watched at once.
pub const DISKS: u32 = 32;

/// Requests under way that can be timed at once.
pub const REQUESTS: u32 = 8192;

/// Kinds of requests told apart.
pub const OPERATIONS: usize = 5;

/// What a request does: an index into [`Disk::operations`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `REQ_OP_READ`.
    Read = 0,
    /// `REQ_OP_WRITE`.
    Write = 1,
    /// `REQ_OP_FLUSH`.
    Flush = 2,
    /// `REQ_OP_DISCARD`, `REQ_OP_SECURE_ERASE`, `REQ_OP_WRITE_ZEROES`.
    Discard = 3,
    /// Zones, passthrough, anything else.
    Other = 4,
}

impl Operation {
    /// Of a request's `cmd_flags` (`include/linux/blk_types.h`).
    #[inline(always)]
    #[must_use]
    pub const fn of(cmd_flags: u32) -> Self {
        match cmd_flags & 0xff {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Flush,
            3 | 5 | 9 => Self::Discard,
            _ => Self::Other,
        }
    }
}

/// One disk's requests of one kind. Counters only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Completed.
    pub completed: u64,
    /// Completed with an error.
    pub errors: u64,
    /// Bytes completed.
    pub bytes: u64,
    /// From insertion to issue, by bucket: none where the kernel took no start time.
    pub queue: [u32; BUCKETS],
    /// From issue to completion, by bucket.
    pub service: [u32; BUCKETS],
}

/// One disk. Written by kernel programs, read by user space through a shared mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// By [`Operation`].
    pub operations: [Requests; OPERATIONS],
}

/// Major and minor number in one word, as the kernel's `dev_t`.
#[inline(always)]
#[must_use]
pub const fn device(major: u32, minor: u32) -> u32 {
    (major << 20) | (minor & 0xf_ffff)
}

/// A request that was slow or failed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BlockRecord {
    /// When it completed, `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// [`crate::KIND_BLOCK`].
    pub kind: u8,
    /// An [`Operation`].
    pub operation: u8,
    /// Always zero.
    pub reserved: u16,
    /// [`device`].
    pub device: u32,
    /// From insertion to issue in nanoseconds; `u64::MAX`: not known.
    pub queue: u64,
    /// From issue to completion in nanoseconds.
    pub service: u64,
    /// Bytes completed.
    pub bytes: u32,
    /// The kernel's `blk_status_t` (5.x: an errno); 0: none.
    pub error: i32,
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Requests>(), 24 + 8 * BUCKETS);
        assert_eq!(size_of::<Disk>(), OPERATIONS * size_of::<Requests>());
        assert_eq!(size_of::<BlockRecord>(), 40);
        assert_eq!(align_of::<BlockRecord>(), 8);
        assert_eq!(offset_of!(BlockRecord, kind), crate::KIND_OFFSET);
        assert_eq!(offset_of!(BlockRecord, queue), 16);
    }
}
