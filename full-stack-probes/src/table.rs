//! The kernel's table of connections, mapped.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{HashMap, MapData};
use ebpf_abi::{PLACES, RING, SLOTS, Slot, VACANT, place};

use crate::mapped::Mapped;

/// The mappings, and which slots are taken.
pub struct Table {
    slots: Arc<Mapped<Slot>>,
    keys: Arc<Mapped<u64>>,
    claims: HashMap<MapData, u32, u64>,
}

/// The kernel's number of the state in which a connection carries data both ways.
pub const TCP_ESTABLISHED: u8 = 1;

/// What tells whether an established connection is well, all in one cache line.
#[derive(Clone, Copy, Debug)]
pub struct Glimpse {
    /// Not everything is acknowledged.
    pub is_outstanding: bool,
    /// As in the slot.
    pub srtt_us: u32,
    /// As in the slot.
    pub mdev_us: u32,
    /// As in the slot.
    pub last_rtt_us: u32,
}

/// Words of a slot before its ring.
const HEAD: usize = std::mem::offset_of!(Slot, ring) / size_of::<u64>();

impl Table {
    /// Maps slots and keys.
    pub fn map(
        slots: MapData,
        keys: MapData,
        claims: HashMap<MapData, u32, u64>,
    ) -> io::Result<Self> {
        Ok(Self {
            slots: Arc::new(Mapped::map(slots, SLOTS)?),
            keys: Arc::new(Mapped::map(keys, SLOTS)?),
            claims,
        })
    }

    /// The same mappings for another thread, to read only.
    pub fn view(&self) -> View {
        View {
            slots: Arc::clone(&self.slots),
            keys: Arc::clone(&self.keys),
        }
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
        // The key, read after it, tells whether it is still the same connection.
        fence(Ordering::Acquire);
        let key = self.key(index);
        (key != VACANT && copy.ready != 0 && key == copy.cookie).then_some(copy)
    }

    /// Looks at a slot's first cache line. `None` where it is not, or no longer, that of an
    /// established connection with this key.
    pub fn glimpse(&self, index: u32, key: u64) -> Option<Glimpse> {
        let slot = self.slots.get(index)?.as_ptr();
        // SAFETY: words within the mapping. The kernel may write meanwhile: every word stands on
        // its own, and a slot that changes hands is not ready, or another's, before or afterwards.
        unsafe {
            let is_its = || {
                (&raw const (*slot).cookie).read_volatile() == key
                    && (&raw const (*slot).ready).read_volatile() != 0
            };
            if !is_its() || (&raw const (*slot).state).read_volatile() != TCP_ESTABLISHED {
                return None;
            }
            fence(Ordering::Acquire);
            let (una, nxt) = (&raw const (*slot).snd_una, &raw const (*slot).snd_nxt);
            let seen = Glimpse {
                is_outstanding: una.read_volatile() != nxt.read_volatile(),
                srtt_us: (&raw const (*slot).srtt_us).read_volatile(),
                mdev_us: (&raw const (*slot).mdev_us).read_volatile(),
                last_rtt_us: (&raw const (*slot).last_rtt_us).read_volatile(),
            };
            fence(Ordering::Acquire);
            is_its().then_some(seen)
        }
    }

    /// Has a slot's first cache line fetched, without waiting for it. The second hardly changes.
    pub fn touch(&self, index: u32) {
        if let Some(slot) = self.slots.get(index) {
            // SAFETY: a word within the mapping.
            unsafe { (&raw const (*slot.as_ptr()).cookie).read_volatile() };
        }
    }

    /// The key of a slot; [`VACANT`] where it is free or out of range.
    pub fn key(&self, index: u32) -> u64 {
        self.atomic_key(index)
            .map_or(VACANT, |key| key.load(Ordering::Acquire))
    }

    /// The slot of a key.
    pub fn find(&self, key: u64) -> Option<u32> {
        (0..PLACES)
            .map(|step| place(key, step))
            .find(|index| self.key(*index) == key)
    }

    /// Takes a slot back from a connection that no longer exists, unless another has it by now.
    pub fn release(&mut self, index: u32, key: u64) -> bool {
        let released = self.atomic_key(index).is_some_and(|place| {
            place
                .compare_exchange(key, VACANT, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        if released {
            self.set_unready(index);
            // Until the claim is gone as well, nobody takes the slot.
            if let Err(error) = self.claims.remove(&index) {
                tracing::debug!(index, %error, "the slot's claim was gone already");
            }
        }
        released
    }

    /// Takes a slot for a connection that programs would not take one for of themselves. The next
    /// program that sees it fills the slot. Returns whether there was one.
    pub fn invite(&mut self, key: u64) -> bool {
        const BPF_NOEXIST: u64 = 1;
        if self.find(key).is_some() {
            return true;
        }
        for index in (0..PLACES).map(|step| place(key, step)) {
            if self.key(index) == VACANT && self.claims.insert(index, key, BPF_NOEXIST).is_ok() {
                self.set_unready(index);
                if let Some(place) = self.atomic_key(index) {
                    place.store(key, Ordering::Release);
                }
                return true;
            }
        }
        false
    }

    /// For a slot whose claim is ours.
    fn set_unready(&self, index: u32) {
        if let Some(slot) = self.slots.get(index) {
            // SAFETY: within the mapping; only the holder of the claim writes to the slot.
            unsafe { (&raw mut (*slot.as_ptr()).ready).write_volatile(0) };
        }
    }

    fn atomic_key(&self, index: u32) -> Option<&AtomicU64> {
        let key: NonNull<u64> = self.keys.get(index)?;
        // SAFETY: an aligned word within the mapping that lives as long as `self`; the kernel
        // changes it by single stores only.
        Some(unsafe { AtomicU64::from_ptr(key.as_ptr()) })
    }
}

/// The table, for those who only look a connection up now and then.
pub struct View {
    slots: Arc<Mapped<Slot>>,
    keys: Arc<Mapped<u64>>,
}

impl View {
    /// The highest acknowledged sequence number of the connection with a key, of which the kernel
    /// says that so many bytes are acknowledged. These count where received segments are not noted.
    pub fn unacknowledged(&self, key: u64, bytes_acked: u64) -> Option<u32> {
        (0..PLACES)
            .map(|step| place(key, step))
            .filter(|index| self.keys.read(*index) == Some(key))
            .find_map(|index| self.slots.read(index))
            .filter(|slot| slot.ready != 0 && slot.cookie == key)
            .map(|slot| match slot.una_base {
                0 => slot.snd_una,
                // Sequence numbers wrap: the low half is all that counts.
                base => base.wrapping_add(bytes_acked as u32),
            })
    }
}
