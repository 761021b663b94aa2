//! A record now and then, so that its reader can tell how late records are.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use ebpf_abi::{HEARTBEAT, Heartbeat};

use crate::rings::urgent_now;

/// A CPU's software clock.
#[perf_event]
pub fn heartbeat(_: PerfEventContext) -> u32 {
    urgent_now(Heartbeat {
        // SAFETY: reads a clock.
        at: unsafe { bpf_ktime_get_ns() },
        kind: HEARTBEAT,
        reserved: [0; 7],
    });
    0
}
