//! Records for user space, and the counters of all that is lost.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use ebpf_abi::{Counter, Event};

/// What cannot wait: every record wakes the reader.
#[map]
static URGENT: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// What can: drained when the reader comes by.
#[map]
static BULK: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own value; an interrupted increment may lose one count at worst.
        unsafe { *value += 1 };
    }
}

#[inline(always)]
pub fn urgent(event: &Event) {
    match URGENT.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(u64::from(BPF_RB_FORCE_WAKEUP));
            count(Counter::Urgent);
        }
        None => count(Counter::UrgentLost),
    }
}

#[inline(always)]
pub fn bulk(event: &Event) {
    match BULK.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(u64::from(BPF_RB_NO_WAKEUP));
            count(Counter::Bulk);
        }
        None => count(Counter::BulkLost),
    }
}
