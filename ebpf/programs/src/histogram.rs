//! Counting durations in histograms that lie in maps.

use core::arch::asm;

use ebpf_abi::{BUCKETS, bucket};

/// Where a duration is counted in a histogram of [`BUCKETS`] buckets.
///
/// # Safety
///
/// `histogram` is the beginning of one in a map.
#[inline(always)]
pub unsafe fn place(histogram: *mut u32, nanos: u64) -> *mut u32 {
    let index = opaque(u64::from(bucket(nanos))) as usize & (BUCKETS - 1);
    // SAFETY: within the histogram.
    unsafe { histogram.add(index) }
}

/// The same value, of which the compiler knows nothing: it must not drop checks that only the
/// verifier needs.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // An instruction, because line information of none is refused.
    // SAFETY: arithmetic on one register.
    unsafe { asm!("{value} += 0", value = inout(reg) value) };
    value
}

/// Counts a duration in a histogram that several CPUs write.
///
/// # Safety
///
/// As [`place`].
#[inline(always)]
pub unsafe fn increment(histogram: *mut u32, nanos: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "lock *(u32 *)({place} + 0) += {one}",
            place = in(reg) place(histogram, nanos),
            one = in(wreg) 1u32,
        );
    }
}

/// Adds to a counter in a map that several CPUs write. The compiler offers no atomic addition for
/// this target.
///
/// # Safety
///
/// `counter` is an aligned word of a map.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {value}",
            counter = in(reg) counter,
            value = in(reg) value,
        );
    }
}
