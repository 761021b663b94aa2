//! The kernel's table of connections, mapped.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{HashMap, MapData};
use ebpf_abi::{PROBES, RING, SLOTS, Slot, VACANT, home};

use crate::mapped::Mapped;

/// The mapping, and which slots are taken.
pub struct Table {
    slots: Mapped<Slot>,
    claims: HashMap<MapData, u32, u64>,
}

/// Words of a slot before its ring.
const HEAD: usize = std::mem::offset_of!(Slot, ring) / size_of::<u64>();

impl Table {
    /// Maps the table.
    pub fn map(map: MapData, claims: HashMap<MapData, u32, u64>) -> io::Result<Self> {
        Ok(Self {
            slots: Mapped::map(map, SLOTS)?,
            claims,
        })
    }

    /// A copy of a slot that is in use and filled in. Where everything is acknowledged the ring of
    /// transmissions is not looked at: its cache lines are another CPU's.
    pub fn read(&self, index: u32) -> Option<Slot> {
        let slot = self.slots.get(index)?.as_ptr();
        // SAFETY: a slot is plain numbers.
        let mut copy: Slot = unsafe { std::mem::zeroed() };
        // SAFETY: within the mapping and within `copy`: all words before the ring. The kernel may
        // write meanwhile: every word stands on its own.
        unsafe {
            let head = slot.cast::<[u64; HEAD]>().read_volatile();
            (&raw mut copy).cast::<[u64; HEAD]>().write(head);
        }
        copy.ring = if copy.snd_nxt == copy.snd_una {
            [u64::from(copy.snd_una) << 32; RING]
        } else {
            // SAFETY: as above.
            unsafe { (&raw const (*slot).ring).read_volatile() }
        };
        // The cookie, read again, tells whether it is still the same connection.
        fence(Ordering::Acquire);
        let still = self.cookie(index);
        (copy.cookie != VACANT && copy.ready != 0 && still == copy.cookie).then_some(copy)
    }

    /// Has a slot's first cache lines fetched, without waiting for them.
    pub fn touch(&self, index: u32) {
        if let Some(slot) = self.slots.get(index) {
            // SAFETY: words within the mapping.
            unsafe {
                (&raw const (*slot.as_ptr()).cookie).read_volatile();
                (&raw const (*slot.as_ptr()).received_at).read_volatile();
            }
        }
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
