//! The kernel's table of connections, mapped: reading it costs no system call.

use std::io;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{HashMap, MapData};
use ebpf_abi::{PROBES, SLOTS, Slot, VACANT, home};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The mapping. Holds the map, so the kernel keeps it while we read.
pub struct Table {
    base: NonNull<Slot>,
    _map: MapData,
    claims: HashMap<MapData, u32, u64>,
}

// SAFETY: the mapping is shared memory that other CPUs write at any time anyway; all access is by
// volatile reads and atomics, and the pointer is valid as long as the table.
unsafe impl Send for Table {}

const LENGTH: usize = SLOTS as usize * size_of::<Slot>();

impl Table {
    /// Maps the table.
    pub fn map(map: MapData, claims: HashMap<MapData, u32, u64>) -> io::Result<Self> {
        let length = NonZeroUsize::new(LENGTH).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new shared mapping of a map's whole memory; nothing else is replaced.
        let base = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self {
            base: base.cast(),
            _map: map,
            claims,
        })
    }

    /// A copy of a slot that is in use and filled in.
    pub fn read(&self, index: u32) -> Option<Slot> {
        let slot = self.slot(index)?;
        // SAFETY: within the mapping; a slot is plain numbers, so any bytes are a valid one. The
        // kernel may write while we copy: the cookie, read again, tells whether it is still the
        // same connection, and every other word is used on its own.
        let copy = unsafe { slot.read_volatile() };
        fence(Ordering::Acquire);
        let still = self.cookie(index);
        (copy.cookie != VACANT && copy.ready != 0 && still == copy.cookie).then_some(copy)
    }

    /// The cookie of a slot; [`VACANT`] where it is free or out of range.
    pub fn cookie(&self, index: u32) -> u64 {
        self.atomic_cookie(index)
            .map_or(VACANT, |cookie| cookie.load(Ordering::Acquire))
    }

    /// The slot of a cookie.
    pub fn find(&self, cookie: u64) -> Option<u32> {
        let first = home(cookie);
        (0..PROBES)
            .map(|step| (first + step) & (SLOTS - 1))
            .find(|index| self.cookie(*index) == cookie)
    }

    /// Takes a slot back from a connection that no longer exists, unless another has it by now.
    pub fn release(&mut self, index: u32, cookie: u64) -> bool {
        let released = self.atomic_cookie(index).is_some_and(|place| {
            place
                .compare_exchange(cookie, VACANT, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        // Until the claim is gone as well, nobody takes the slot.
        if released && let Err(error) = self.claims.remove(&index) {
            tracing::debug!(index, %error, "the slot's claim was gone already");
        }
        released
    }

    fn slot(&self, index: u32) -> Option<NonNull<Slot>> {
        // SAFETY: the index is within the mapping.
        (index < SLOTS).then(|| unsafe { self.base.add(index as usize) })
    }

    fn atomic_cookie(&self, index: u32) -> Option<&AtomicU64> {
        let slot = self.slot(index)?;
        // SAFETY: an aligned word within the mapping that lives as long as `self`; the kernel
        // changes it by single stores and compare-exchanges only.
        Some(unsafe { AtomicU64::from_ptr(&raw mut (*slot.as_ptr()).cookie) })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrowed from it outlives `self`.
        if let Err(error) = unsafe { munmap(self.base.cast(), LENGTH) } {
            tracing::warn!(%error, "the table of connections stays mapped");
        }
    }
}
