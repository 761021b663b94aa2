//! Records for user space, and the counters of all that is lost.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use ebpf_abi::{Counter, Event, WAKE_PAUSE};

use crate::histogram::add;

/// Bytes of each ring: room for some 2,700 records.
const RING_SIZE: u32 = 256 * 1024;

/// Edges, in order.
#[map]
static URGENT: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);

/// What can: drained when the reader comes by. User space makes it larger where single messages are
/// recorded.
#[map]
static BULK: RingBuf = RingBuf::with_byte_size(RING_SIZE, 0);

/// How large the bulk ring is.
#[unsafe(no_mangle)]
static BULK_SIZE: u32 = RING_SIZE;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: an element of the map. It is this CPU's own, but a program on a function may be
        // preempted by another, and every loss is to be accounted for.
        unsafe { add(value, 1) };
    }
}

/// When an event last woke the reader, in nanoseconds.
#[map]
static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

/// Whether the reader is woken, or comes by in its own time (20 to 100 ms). Waking costs the
/// monitored path an interrupt to its own CPU: several microseconds in a virtual machine.
#[derive(Clone, Copy)]
pub enum Wake {
    Now,
    Later,
}

#[inline(always)]
pub fn urgent(event: &Event, wake: Wake) {
    let flags = match wake {
        Wake::Now if is_rested(event.at) => BPF_RB_FORCE_WAKEUP,
        _ if passes_a_quarter(&URGENT, RING_SIZE, size_of::<Event>()) => BPF_RB_FORCE_WAKEUP,
        _ => BPF_RB_NO_WAKEUP,
    };
    match URGENT.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(u64::from(flags));
            count(Counter::Urgent);
        }
        None => count(Counter::UrgentLost),
    }
}

/// Whether the reader was not woken just now. If it was, it comes by again of itself: a flood of
/// failures must not cost the monitored path an interrupt each.
#[inline(always)]
fn is_rested(now: u64) -> bool {
    let Some(woken) = WOKEN.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: an element of the map. Two CPUs at once wake twice.
    unsafe {
        let is_rested = now.wrapping_sub(*woken) >= WAKE_PAUSE;
        if is_rested {
            *woken = now;
        }
        is_rested
    }
}

/// A record of another kind that wakes the reader.
#[inline(always)]
pub fn urgent_now<T: Copy + 'static>(record: T) {
    match URGENT.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
            count(Counter::Urgent);
        }
        None => count(Counter::UrgentLost),
    }
}

/// Whether a ring is just past a quarter, a half, or three quarters full.
#[inline(always)]
fn passes_a_quarter(ring: &RingBuf, size: u32, record: usize) -> bool {
    // A power of two, as the ring's size.
    let quarter = u64::from(size / 4);
    let waiting = ring.query(u64::from(BPF_RB_AVAIL_DATA));
    waiting >= quarter && waiting & (quarter - 1) < 2 * record as u64
}

/// Puts a record in the bulk ring.
#[inline(always)]
pub fn bulk<T: Copy + 'static>(record: &T) {
    put(record, Counter::Bulk, Counter::BulkLost);
}

/// Puts a record of a single call in the bulk ring: nothing is decided by it, so its loss is
/// counted apart.
#[inline(always)]
pub fn call<T: Copy + 'static>(record: &T) {
    put(record, Counter::Call, Counter::CallLost);
}

/// The reader is woken only when the ring fills.
#[inline(always)]
fn put<T: Copy + 'static>(record: &T, told: Counter, lost: Counter) {
    // SAFETY: a static.
    let size = unsafe { core::ptr::read_volatile(&raw const BULK_SIZE) };
    let flags = if passes_a_quarter(&BULK, size, size_of::<T>()) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    match BULK.reserve::<T>(0) {
        Some(mut entry) => {
            entry.write(*record);
            entry.submit(u64::from(flags));
            count(told);
        }
        None => count(lost),
    }
}
