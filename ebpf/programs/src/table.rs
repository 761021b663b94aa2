//! The table of connections: slots in an array that user space maps, and their keys beside it in
//! buckets of one cache line each.
//!
//! Looking up an array element is inlined by the verifier, so a hit costs a handful of
//! instructions, and a connection that is not watched costs one cache line. A slot is claimed by
//! an entry in a map beside it.

use core::arch::asm;
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use ebpf_abi::{
    BUCKET, BUCKETS_OF_KEYS, Counter, NO_SLOT, PLACES, RING, SLOTS, Slot, VACANT, home, place,
    seq_after, stamp_end, stamp_micros,
};

use crate::access::Access;
use crate::fields::{Field, is_present};
use crate::rings::count;
use crate::sock;

#[map]
static TABLE: Array<Slot> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// The key of each slot.
#[map]
static KEYS: Array<[u64; BUCKET as usize]> =
    Array::with_max_entries(BUCKETS_OF_KEYS, BPF_F_MMAPABLE);

/// Which slots are taken, and by which connection.
#[map]
static CLAIMS: HashMap<u32, u64> = HashMap::with_max_entries(SLOTS, 0);

/// Not 0: connections may be known by their sockets' addresses, because some program cannot make a
/// cookie.
#[unsafe(no_mangle)]
static BY_ADDRESS: u32 = 0;

/// How often round-trip times are copied while data leaves without a call: the logarithm of
/// nanoseconds, 8 ms. User space looks less often.
const STRETCH: u32 = 23;

/// A slot and its index, or none. No `Option`: what is undefined in its absence, the compiler saves
/// on the stack all the same, and the verifier refuses that.
#[derive(Clone, Copy)]
pub struct Entry {
    /// [`NO_SLOT`] where there is none.
    pub index: u32,
    slot: *mut Slot,
}

const NONE: Entry = Entry {
    index: NO_SLOT,
    slot: core::ptr::null_mut(),
};

/// The entry of a slot.
#[inline(always)]
pub fn entry(index: u32) -> Entry {
    match TABLE.get_ptr_mut(index) {
        Some(slot) => Entry { index, slot },
        None => NONE,
    }
}

/// Where the key of a slot is.
#[inline(always)]
fn key_of(index: u32) -> Option<*mut u64> {
    let bucket = KEYS.get_ptr_mut(index / BUCKET)?.cast::<u64>();
    // SAFETY: within the bucket.
    Some(unsafe { bucket.add((index & (BUCKET - 1)) as usize) })
}

/// The slot of a key.
#[inline(always)]
fn find(key: u64) -> Entry {
    entry(find_index(key))
}

/// The slot of a socket if it is filled in and where nearly all are: at home. The slot says itself
/// whose it is: the lines with the keys are not looked at.
///
/// # Safety
///
/// As [`search`].
#[inline(always)]
pub unsafe fn at_home<A: Access>(sk: *const c_void) -> Entry {
    // SAFETY: by the caller's promise.
    let cookie: u64 = unsafe { A::load(sk, Field::SK_COOKIE) };
    let found = entry(home(cookie));
    if found.is_some() && cookie != 0 && found.is_of(cookie) {
        return found;
    }
    NONE
}

/// The index of a key's slot, or [`NO_SLOT`].
///
/// A global function: the verifier looks at it once, by itself, and takes its result for any
/// number. Inside its callers every step of every search would be a path of its own, too many for
/// verifiers before Linux 6.1.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_index(key: u64) -> u32 {
    let mut step = 0;
    while step < PLACES {
        let index = place(key, step);
        let Some(holder) = key_of(index) else {
            return NO_SLOT;
        };
        // SAFETY: an element of the map.
        if unsafe { read_volatile(holder) } == key {
            return index;
        }
        step += 1;
    }
    NO_SLOT
}

/// What a search found.
pub struct Found {
    pub entry: Entry,
    /// The key that the connection had until now; [`VACANT`]: it had none, or has it still.
    pub former: u64,
}

/// The slot of a socket. One that was known by its address and has a cookie now is known by that
/// from now on.
///
/// # Safety
///
/// `sk` is a `struct sock` or begins with a `struct sock_common`.
#[inline(always)]
pub unsafe fn search<A: Access>(sk: *const c_void) -> Found {
    // SAFETY: by the caller's promise; the setting is a static.
    unsafe {
        let mut found = Found {
            entry: NONE,
            former: VACANT,
        };
        if read_volatile(&raw const BY_ADDRESS) == 0 {
            let cookie: u64 = A::load(sk, Field::SK_COOKIE);
            if cookie != 0 {
                found.entry = find(cookie);
            }
            return found;
        }
        let cookie = A::cookie(sk);
        if cookie != 0 {
            found.entry = find(cookie);
        }
        if found.entry.is_none() {
            let address = A::address(sk);
            found.entry = find(address);
            if found.entry.is_some() && cookie != 0 {
                found.entry = found.entry.rekey(cookie);
                found.former = address;
            }
        }
        found
    }
}

/// Gives back the slot of a socket that is gone, if it has one.
///
/// # Safety
///
/// As [`search`].
#[inline(always)]
pub unsafe fn forget<A: Access>(sk: *const c_void) {
    // SAFETY: by the caller's promise; the setting is a static.
    unsafe {
        let mut known = NONE;
        let cookie: u64 = A::load(sk, Field::SK_COOKIE);
        if cookie != 0 {
            known = find(cookie);
        }
        if known.is_none() && read_volatile(&raw const BY_ADDRESS) != 0 {
            known = find(A::address(sk));
        }
        if known.is_some() {
            known.release();
        }
    }
}

/// Takes a slot for a key that has none; it is not filled yet.
#[inline(always)]
pub fn take(key: u64) -> Entry {
    entry(take_index(key))
}

/// The index of the slot that was taken, or [`NO_SLOT`]. Global as [`find_index`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_index(key: u64) -> u32 {
    let mut step = 0;
    while step < PLACES {
        let index = place(key, step);
        let Some(holder) = key_of(index) else {
            return NO_SLOT;
        };
        // SAFETY: an element of the map.
        let held_by = unsafe { read_volatile(holder) };
        if held_by == key {
            // Another CPU saw the same connection at the same time.
            return index;
        }
        if held_by == VACANT && claim(index, key) {
            // SAFETY: an element of the map that this CPU has just claimed.
            unsafe { write_volatile(holder, key) };
            count(Counter::SlotsTaken);
            return index;
        }
        step += 1;
    }
    count(Counter::TableFull);
    NO_SLOT
}

/// Marks a slot as taken. Only one CPU succeeds: the map's own lock decides, because instructions
/// that compare and exchange are newer (5.12) than the oldest kernels that are supported.
#[inline(always)]
fn claim(index: u32, key: u64) -> bool {
    CLAIMS.insert(index, key, BPF_NOEXIST.into()).is_ok()
}

impl Entry {
    /// Looked at anew each time: the compiler would keep the answer on the stack, in four bytes
    /// whose value verifiers before Linux 5.16 forget.
    #[inline(always)]
    pub fn is_some(self) -> bool {
        let slot: u64;
        // SAFETY: copies a register.
        unsafe { asm!("{slot} = {from}", slot = out(reg) slot, from = in(reg) self.slot) };
        slot != 0
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        !self.is_some()
    }

    /// Whether the slot is filled in, and for this key.
    #[inline(always)]
    fn is_of(self, key: u64) -> bool {
        // SAFETY: an element of the map.
        unsafe { read_volatile(&raw const (*self.slot).cookie) == key && self.is_ready() }
    }

    /// Gives the slot back.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: elements of the maps.
        unsafe {
            write_volatile(&raw mut (*self.slot).ready, 0);
            if let Some(key) = key_of(self.index) {
                write_volatile(key, VACANT);
            }
        }
        // Nobody else has the slot's claim, so removing it cannot fail.
        let _ = CLAIMS.remove(self.index);
        count(Counter::SlotsFreed);
    }

    /// Moves what is known to another key's slot. None: there is no room for it.
    #[inline(always)]
    fn rekey(self, to: u64) -> Self {
        let new = take(to);
        if new.is_some() {
            // SAFETY: elements of the map, of which this CPU has just claimed one.
            unsafe {
                let (source, target) = (self.slot.cast::<u64>(), new.slot.cast::<u64>());
                let mut word = 0;
                while word < size_of::<Slot>() / 8 {
                    write_volatile(target.add(word), read_volatile(source.add(word)));
                    word += 1;
                }
                write_volatile(&raw mut (*new.slot).cookie, to);
            }
        }
        self.release();
        new
    }

    /// Whether it was filled in since it was taken.
    #[inline(always)]
    pub fn is_ready(self) -> bool {
        // SAFETY: an element of the map.
        unsafe { read_volatile(&raw const (*self.slot).ready) != 0 }
    }

    /// Fills the slot, as far as the socket itself knows its past.
    ///
    /// # Safety
    ///
    /// `sk` and `tcp` are the slot's TCP socket, whose key is `key`.
    #[inline(always)]
    pub unsafe fn fill<A: Access>(
        self,
        key: u64,
        sk: *const c_void,
        tcp: *const c_void,
        state: u8,
    ) {
        let slot = self.slot;
        // SAFETY: an element of the map that is this connection's; `tcp` by the caller's promise.
        unsafe {
            write_volatile(&raw mut (*slot).cookie, key);
            (*slot).acked_at = 0;
            (*slot).sent_at = 0;
            (*slot).received_at = 0;
            (*slot).sends = 0;
            (*slot).segments = 0;
            (*slot).opened_at = 0;
            (*slot).una_base = 0;
            (*slot).window_closed_at = 0;
            (*slot).zero_window = 0;
            self.set_ends::<A>(sk);
            self.restart::<A>(tcp);
            (*slot).state = state;
            write_volatile(&raw mut (*slot).ready, 1);
        }
    }

    #[inline(always)]
    unsafe fn set_ends<A: Access>(self, sk: *const c_void) {
        // SAFETY: an element of the map; the addresses are 8-byte aligned in it.
        unsafe {
            let ends = sock::ends::<A>(sk);
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
    pub unsafe fn note_inherited<A: Access>(self, tcp: *const c_void) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let una: u32 = A::load(tcp, Field::TP_SND_UNA);
            let nxt = (*self.slot).snd_nxt;
            if seq_after(nxt, una) {
                let micros: u64 = A::load(tcp, Field::TP_MSTAMP);
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

    #[inline(always)]
    pub fn set_state(self, state: u8) {
        // SAFETY: an element of the map.
        unsafe { write_volatile(&raw mut (*self.slot).state, state) };
    }

    #[inline(always)]
    pub fn set_opened(self, at: u64) {
        // SAFETY: an element of the map.
        unsafe { (*self.slot).opened_at = at };
    }

    /// How long the handshake took that ends now; 0: its beginning was not seen.
    #[inline(always)]
    pub fn handshake(self, now: u64) -> u64 {
        // SAFETY: an element of the map.
        match unsafe { (*self.slot).opened_at } {
            0 => 0,
            opened_at => now.wrapping_sub(opened_at),
        }
    }

    /// Nothing is on its way.
    #[inline(always)]
    unsafe fn restart<A: Access>(self, tcp: *const c_void) {
        let slot = self.slot;
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let nxt: u32 = A::load(tcp, Field::TP_SND_NXT);
            let blank = u64::from(nxt) << 32;
            let mut index = 0;
            while index < RING {
                write_volatile(&raw mut (*slot).ring[index], blank);
                index += 1;
            }
            (*slot).head = 0;
            (*slot).snd_nxt = nxt;
            write_volatile(&raw mut (*slot).snd_una, nxt);
            self.refresh::<A>(tcp);
        }
    }

    /// Copies the round-trip times. All but the smoothed one are in cache lines that nobody else has
    /// looked at yet when a segment comes in.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn refresh<A: Access>(self, tcp: *const c_void) {
        let slot = self.slot;
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            (*slot).srtt_us = A::load(tcp, Field::TP_SRTT);
            (*slot).mdev_us = A::load(tcp, Field::TP_MDEV);
            // In a line that hardly changes, so that nobody waits for it.
            let min: u32 = A::load(tcp, Field::TP_RTT_MIN);
            if (*slot).min_rtt_us != min {
                (*slot).min_rtt_us = min;
            }
            (*slot).last_rtt_us = if is_present(Field::TP_RACK_RTT) {
                A::load(tcp, Field::TP_RACK_RTT)
            } else {
                0
            };
        }
    }

    /// Whether the peer's window was not known to be so.
    #[inline(always)]
    pub fn window_differs(self, is_closed: bool) -> bool {
        // SAFETY: an element of the map.
        unsafe { ((*self.slot).zero_window != 0) != is_closed }
    }

    /// The peer's window is closed or open. If that is a change: 0 where it closed, else for how
    /// long it was closed.
    #[inline(always)]
    pub fn note_window(self, is_closed: bool, now: u64) -> Option<u64> {
        let slot = self.slot;
        // SAFETY: an element of the map.
        unsafe {
            if !self.window_differs(is_closed) {
                return None;
            }
            write_volatile(&raw mut (*slot).zero_window, u8::from(is_closed));
            let since = (*slot).window_closed_at;
            (*slot).window_closed_at = if is_closed { now } else { 0 };
            Some(if is_closed {
                0
            } else {
                now.wrapping_sub(since)
            })
        }
    }

    /// Whether a segment that acknowledges everything before `ack` may bring a change of the
    /// window from or to zero. A peer does not take back what it offered (RFC 9293, section
    /// 3.8.6), so its window can only be closed where all of what it offered is used up.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket, which has not processed the segment yet.
    #[inline(always)]
    pub unsafe fn may_change_window<A: Access>(self, tcp: *const c_void, ack: u32) -> bool {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let una = (*self.slot).snd_una;
            let window: u32 = A::load(tcp, Field::TP_SND_WND);
            !seq_after(una, ack)
                && ((*self.slot).zero_window != 0 || !seq_after(una.wrapping_add(window), ack))
        }
    }

    /// Notes what was transmitted since the last look. Returns whether it is the first in a stretch
    /// of time.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_sent<A: Access>(self, tcp: *const c_void) -> bool {
        // SAFETY: by the caller's promise.
        unsafe { self.note_sent_until::<A>(tcp, A::load(tcp, Field::TP_SND_NXT)) }
    }

    /// Notes that everything before `nxt` was transmitted. Returns whether it is the first in a
    /// stretch of time.
    ///
    /// `tcp_mstamp` is the socket's clock, read by the kernel when it last transmitted or received.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_sent_until<A: Access>(self, tcp: *const c_void, nxt: u32) -> bool {
        let slot = self.slot;
        // SAFETY: an element of the map; `tcp` by the caller's promise. Indices are masked.
        unsafe {
            if !seq_after(nxt, (*slot).snd_nxt) {
                return false;
            }
            let micros: u64 = A::load(tcp, Field::TP_MSTAMP);
            let sent_at = micros * 1000;
            let begins = (sent_at ^ (*slot).sent_at) >> STRETCH != 0;
            (*slot).snd_nxt = nxt;
            (*slot).sent_at = sent_at;

            let ring = (&raw mut (*slot).ring).cast::<u64>();
            let una = (*slot).snd_una;
            let head = (*slot).head;
            let newest = ring.add(usize::from(head.wrapping_sub(1)) & (RING - 1));
            let next = ring.add(usize::from(head) & (RING - 1));
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
            begins
        }
    }

    /// A call or a segment sent.
    #[inline(always)]
    pub fn count_send(self) {
        // SAFETY: an element of the map, where a lost increment does no harm.
        unsafe { (*self.slot).sends = (*self.slot).sends.wrapping_add(1) };
    }

    /// What the kernel knows to be acknowledged counts, also where the segment that said so was
    /// not seen.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_acknowledged<A: Access>(self, tcp: *const c_void) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let una: u32 = A::load(tcp, Field::TP_SND_UNA);
            if seq_after(una, (*self.slot).snd_una) {
                write_volatile(&raw mut (*self.slot).snd_una, una);
            }
        }
    }

    /// From now on segments come in by another way than [`Entry::note_received`] knows: from the
    /// count of acknowledged bytes, user space can tell what is acknowledged.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_half_closed<A: Access>(self, tcp: *const c_void) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            self.note_acknowledged::<A>(tcp);
            if is_present(Field::TP_BYTES_ACKED) {
                let una: u32 = A::load(tcp, Field::TP_SND_UNA);
                let acked: u64 = A::load(tcp, Field::TP_BYTES_ACKED);
                (*self.slot).una_base = una.wrapping_sub(acked as u32);
            }
        }
    }

    /// A FIN leaves, unless data waits before it. It has a sequence number of its own.
    ///
    /// # Safety
    ///
    /// `tcp` is the slot's TCP socket.
    #[inline(always)]
    pub unsafe fn note_fin<A: Access>(self, tcp: *const c_void, now: u64) {
        // SAFETY: an element of the map; `tcp` by the caller's promise.
        unsafe {
            let _ = self.note_sent::<A>(tcp);
            let nxt: u32 = A::load(tcp, Field::TP_SND_NXT);
            if is_present(Field::TP_WRITE_SEQ) && A::load::<u32>(tcp, Field::TP_WRITE_SEQ) == nxt {
                self.note_at(nxt.wrapping_add(1), now);
            }
        }
    }

    /// Notes one more transmission, that of a FIN.
    #[inline(always)]
    unsafe fn note_at(self, nxt: u32, now: u64) {
        let slot = self.slot;
        // SAFETY: an element of the map. Indices are masked.
        unsafe {
            let ring = (&raw mut (*slot).ring).cast::<u64>();
            let head = (*slot).head;
            let next = ring.add(usize::from(head) & (RING - 1));
            let end = u64::from(nxt) << 32;
            if seq_after(stamp_end(read_volatile(next)), (*slot).snd_una) {
                let newest = ring.add(usize::from(head.wrapping_sub(1)) & (RING - 1));
                write_volatile(newest, end | (read_volatile(newest) & 0xffff_ffff));
            } else {
                write_volatile(next, end | u64::from((now / 1000) as u32));
                (*slot).head = head.wrapping_add(1);
            }
            (*slot).snd_nxt = nxt;
            (*slot).sent_at = now;
        }
    }

    /// All that was sent is acknowledged.
    #[inline(always)]
    pub fn note_all_acknowledged(self, now: u64) {
        let slot = self.slot;
        // SAFETY: an element of the map.
        unsafe {
            (*slot).acked_at = now;
            (*slot).received_at = now;
            write_volatile(&raw mut (*slot).snd_una, (*slot).snd_nxt);
        }
    }

    /// Whether the last segment came in another second, of 2^30 ns.
    #[inline(always)]
    pub fn is_second_new(self, now: u64) -> bool {
        // SAFETY: an element of the map.
        (now ^ unsafe { (*self.slot).received_at }) >> 30 != 0
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
    pub fn note_retransmit(self, now: u64) {
        // SAFETY: an element of the map.
        unsafe { (*self.slot).sent_at = now };
    }
}
