//! The table of connections: an open-addressed hash table in an array that user space maps.
//!
//! Looking up an array element is inlined by the verifier, so a hit costs a handful of
//! instructions. A slot is claimed by an entry in a map beside it.

use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use ebpf_abi::{
    Counter, NO_SLOT, PROBES, RING, SLOTS, Slot, VACANT, home, seq_after, stamp_end, stamp_micros,
};

use crate::fields::{Field, is_present, load};
use crate::rings::count;
use crate::sock::{self, Ends};

#[map]
static TABLE: Array<Slot> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// Which slots are taken, and by which connection.
#[map]
static CLAIMS: HashMap<u32, u64> = HashMap::with_max_entries(SLOTS, 0);

/// A slot and its index.
#[derive(Clone, Copy)]
pub struct Entry {
    pub index: u32,
    slot: *mut Slot,
}

/// The slot of a cookie.
#[inline(always)]
pub fn find(cookie: u64) -> Option<Entry> {
    let first = home(cookie);
    let mut step = 0;
    while step < PROBES {
        let index = (first + step) & (SLOTS - 1);
        let slot = TABLE.get_ptr_mut(index)?;
        // SAFETY: an element of the map.
        if unsafe { read_volatile(&raw const (*slot).cookie) } == cookie {
            return Some(Entry { index, slot });
        }
        step += 1;
    }
    None
}

/// Takes a slot for a cookie that [`find`] did not find, and fills it.
///
/// # Safety
///
/// `sk` and `tcp` are the same TCP socket.
#[inline(always)]
pub unsafe fn take(
    cookie: u64,
    sk: *const c_void,
    tcp: *const c_void,
    state: u8,
    owner: u32,
) -> Option<Entry> {
    let first = home(cookie);
    let mut step = 0;
    while step < PROBES {
        let index = (first + step) & (SLOTS - 1);
        let slot = TABLE.get_ptr_mut(index)?;
        // SAFETY: an element of the map.
        let holder = unsafe { read_volatile(&raw const (*slot).cookie) };
        if holder == cookie {
            // Another CPU saw the same connection at the same time.
            return Some(Entry { index, slot });
        }
        if holder == VACANT && claim(index, cookie) {
            // SAFETY: an element of the map that this CPU has just claimed.
            unsafe { write_volatile(&raw mut (*slot).cookie, cookie) };
            let entry = Entry { index, slot };
            // SAFETY: by the caller's promise.
            unsafe { entry.fill(sk, tcp, state, owner) };
            count(Counter::SlotsTaken);
            return Some(entry);
        }
        step += 1;
    }
    count(Counter::TableFull);
    None
}

/// Marks a slot as taken. Only one CPU succeeds: the map's own lock decides, because instructions
/// that compare and exchange are newer (5.12) than the oldest kernels that are supported.
#[inline(always)]
fn claim(index: u32, cookie: u64) -> bool {
    CLAIMS.insert(index, cookie, BPF_NOEXIST.into()).is_ok()
}

/// Gives a slot back, if the cookie has one. Its index, else [`NO_SLOT`].
#[inline(always)]
pub fn release(cookie: u64) -> u32 {
    match find(cookie) {
        Some(entry) => {
            // SAFETY: an element of the map.
            unsafe {
                write_volatile(&raw mut (*entry.slot).ready, 0);
                write_volatile(&raw mut (*entry.slot).cookie, VACANT);
            }
            // Nobody else has the slot's claim, so removing it cannot fail.
            let _ = CLAIMS.remove(entry.index);
            count(Counter::SlotsFreed);
            entry.index
        }
        None => NO_SLOT,
    }
}

impl Entry {
    #[inline(always)]
    unsafe fn fill(self, sk: *const c_void, tcp: *const c_void, state: u8, owner: u32) {
        let slot = self.slot;
        // SAFETY: an element of the map that this CPU has just claimed; `tcp` by the caller's promise.
        unsafe {
            let nxt: u32 = load(tcp, Field::TP_SND_NXT);
            (*slot).head = 0;
            (*slot).snd_nxt = nxt;
            (*slot).snd_una = nxt;
            (*slot).acked_at = 0;
            (*slot).sent_at = 0;
            (*slot).received_at = 0;
            (*slot).sends = 0;
            (*slot).segments = 0;
            (*slot).tail_probes = 0;
            (*slot).timeouts = 0;
            (*slot).other_retransmits = 0;
            (*slot).owner = owner;
            let blank = u64::from(nxt) << 32;
            let mut index = 0;
            while index < RING {
                write_volatile(&raw mut (*slot).ring[index], blank);
                index += 1;
            }
            self.set_ends(&sock::ends(sk));
            self.refresh(tcp);
            (*slot).state = state;
            write_volatile(&raw mut (*slot).ready, 1);
        }
    }

    /// Both ends: the local port is chosen after a connect's first change of state.
    #[inline(always)]
    pub fn set_ends(self, ends: &Ends) {
        // SAFETY: an element of the map; the addresses are 8-byte aligned in it.
        unsafe {
            (*self.slot).local = core::mem::transmute::<[u64; 2], [u8; 16]>(ends.local);
            (*self.slot).remote = core::mem::transmute::<[u64; 2], [u8; 16]>(ends.remote);
            (*self.slot).local_port = ends.local_port;
            (*self.slot).remote_port = ends.remote_port;
        }
    }

    /// A connection that was there before it was watched may have bytes on their way; when they
    /// left is known no better than by the socket's own clock.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_inherited(self, tcp: *const c_void) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let una: u32 = load(tcp, Field::TP_SND_UNA);
            let nxt = (*self.slot).snd_nxt;
            if seq_after(nxt, una) {
                let micros: u64 = load(tcp, Field::TP_MSTAMP);
                (*self.slot).snd_una = una;
                write_volatile(
                    &raw mut (*self.slot).ring[0],
                    (u64::from(nxt) << 32) | u64::from(micros as u32),
                );
                (*self.slot).head = 1;
                (*self.slot).sent_at = micros * 1000;
            }
        }
    }

    pub fn set_state(self, state: u8) {
        // SAFETY: an element of the map.
        unsafe { write_volatile(&raw mut (*self.slot).state, state) };
    }

    /// Nothing is on its way: the handshake's own sequence numbers are no data.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn restart(self, tcp: *const c_void) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let nxt: u32 = load(tcp, Field::TP_SND_NXT);
            let blank = u64::from(nxt) << 32;
            let mut index = 0;
            while index < RING {
                write_volatile(&raw mut (*self.slot).ring[index], blank);
                index += 1;
            }
            (*self.slot).snd_nxt = nxt;
            write_volatile(&raw mut (*self.slot).snd_una, nxt);
            self.refresh(tcp);
        }
    }

    /// Copies the round-trip times and the peer's window.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn refresh(self, tcp: *const c_void) {
        let slot = self.slot;
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            (*slot).srtt_us = load(tcp, Field::TP_SRTT);
            (*slot).mdev_us = load(tcp, Field::TP_MDEV);
            (*slot).min_rtt_us = load(tcp, Field::TP_RTT_MIN);
            (*slot).last_rtt_us = if is_present(Field::TP_RACK_RTT) {
                load(tcp, Field::TP_RACK_RTT)
            } else {
                0
            };
            (*slot).zero_window = u8::from(load::<u32>(tcp, Field::TP_SND_WND) == 0);
        }
    }

    /// Notes what was transmitted since the last look. Returns whether anything was.
    ///
    /// `tcp_mstamp` is the socket's clock, read by the kernel when it last transmitted or received.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_sent(self, tcp: *const c_void) -> bool {
        let slot = self.slot;
        // SAFETY: an element of the map; `tcp` by the caller's promise. Indices are masked.
        unsafe {
            let nxt: u32 = load(tcp, Field::TP_SND_NXT);
            if !seq_after(nxt, (*slot).snd_nxt) {
                return false;
            }
            let micros: u64 = load(tcp, Field::TP_MSTAMP);
            (*slot).snd_nxt = nxt;
            (*slot).sent_at = micros * 1000;

            let ring = (&raw mut (*slot).ring).cast::<u64>();
            let una = (*slot).snd_una;
            let head = (*slot).head;
            let newest = ring.add((head.wrapping_sub(1) as usize) & (RING - 1));
            let next = ring.add((head as usize) & (RING - 1));
            let last = read_volatile(newest);
            let end = u64::from(nxt) << 32;
            // Transmissions less than a sixteenth of a round trip apart share an entry, so that
            // the ring spans a round trip; and when everything in it is on its way, the newest
            // entry grows, so that the oldest keeps its age.
            let close = seq_after(stamp_end(last), una)
                && (micros as u32).wrapping_sub(stamp_micros(last)) < ((*slot).srtt_us >> 7);
            if close || seq_after(stamp_end(read_volatile(next)), una) {
                write_volatile(newest, end | (last & 0xffff_ffff));
            } else {
                write_volatile(next, end | u64::from(micros as u32));
                (*slot).head = head.wrapping_add(1);
            }
            true
        }
    }

    /// A send call returned. What the kernel knows to be acknowledged counts, also where the
    /// segment that said so was not seen.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_send_call(self, tcp: *const c_void) {
        // SAFETY: an element of the map, where a lost increment does no harm; `tcp` by the
        // caller's promise.
        unsafe {
            (*self.slot).sends = (*self.slot).sends.wrapping_add(1);
            let una: u32 = load(tcp, Field::TP_SND_UNA);
            if seq_after(una, (*self.slot).snd_una) {
                write_volatile(&raw mut (*self.slot).snd_una, una);
            }
        }
    }

    /// A segment came in that acknowledges everything before `ack`.
    #[inline(always)]
    pub fn note_received(self, ack: u32, now: u64) {
        let slot = self.slot;
        // SAFETY: an element of the map.
        unsafe {
            (*slot).received_at = now;
            (*slot).segments = (*slot).segments.wrapping_add(1);
            if seq_after(ack, (*slot).snd_una) && !seq_after(ack, (*slot).snd_nxt) {
                (*slot).acked_at = now;
                write_volatile(&raw mut (*slot).snd_una, ack);
            }
        }
    }

    /// The kernel retransmitted.
    #[inline(always)]
    pub fn note_retransmit(self, cause: ebpf_abi::RetransmitCause, now: u64) {
        use ebpf_abi::RetransmitCause::{TailLossProbe, Timeout};
        let slot = self.slot;
        // SAFETY: an element of the map.
        unsafe {
            (*slot).sent_at = now;
            match cause {
                TailLossProbe => (*slot).tail_probes = (*slot).tail_probes.wrapping_add(1),
                Timeout => (*slot).timeouts = (*slot).timeouts.wrapping_add(1),
                _ => (*slot).other_retransmits = (*slot).other_retransmits.wrapping_add(1),
            }
        }
    }
}
