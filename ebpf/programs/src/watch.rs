//! The watched set: which processes are the validator.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;

/// Processes watched at once.
const PROCESSES: u32 = 4096;

/// Thread group ids of the watched processes, and why they are.
#[map]
pub static WATCHED: HashMap<u32, u32> = HashMap::with_max_entries(PROCESSES, 0);

/// Whether the current thread belongs to a watched process. Meaningless in softirq.
#[inline(always)]
#[allow(dead_code)]
pub fn is_current() -> bool {
    is_watched_tgid((bpf_get_current_pid_tgid() >> 32) as u32)
}

/// Whether the process is watched.
#[inline(always)]
#[allow(dead_code)]
pub fn is_watched_tgid(tgid: u32) -> bool {
    WATCHED.get_ptr(&tgid).is_some()
}
