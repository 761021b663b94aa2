//! The kernel's table of connections, mapped.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{HashMap, MapData};
use ebpf_abi::{PROBES, SLOTS, Slot, VACANT, home};

use crate::mapped::Mapped;

/// The mapping, and which slots are taken.
pub struct Table {
    slots: Mapped<Slot>,
    claims: HashMap<MapData, u32, u64>,
}

impl Table {
    /// Maps the table.
    pub fn map(map: MapData, claims: HashMap<MapData, u32, u64>) -> io::Result<Self> {
        Ok(Self {
            slots: Mapped::map(map, SLOTS)?,
            claims,
        })
    }

    /// A copy of a slot that is in use and filled in.
    pub fn read(&self, index: u32) -> Option<Slot> {
        let copy = self.slots.read(index)?;
        // The cookie, read again, tells whether it is still the same connection.
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

    fn atomic_cookie(&self, index: u32) -> Option<&AtomicU64> {
        let slot: NonNull<Slot> = self.slots.get(index)?;
        // SAFETY: an aligned word within the mapping that lives as long as `self`; the kernel
        // changes it by single stores only.
        Some(unsafe { AtomicU64::from_ptr(&raw mut (*slot.as_ptr()).cookie) })
    }
}
