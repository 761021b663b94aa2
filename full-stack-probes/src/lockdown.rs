//! Kernel lockdown in confidentiality mode: programs may not read kernel memory by address.
//!
//! It forbids kprobes and `bpf_probe_read_kernel` (`LOCKDOWN_KPROBES`, `LOCKDOWN_BPF_READ_KERNEL`), not
//! loads through pointers whose type the verifier knows.

use std::fs;

use crate::probes::{Rung, RungKind};

/// What a reason says that comes from it.
pub const REASON: &str = "kernel lockdown in confidentiality mode forbids it";

/// Fields whose target has no type that the verifier knows: what lies behind them is read by
/// address, so programs do without (zero windows by segment, addresses given to `sendto`).
pub const HIDES: &[&str] = &["SKB_DATA", "MSG_NAME"];

/// Whether this kernel was started in that mode.
pub fn is_on() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

/// Refuses rungs that are bound to fail.
pub fn permits(rung: &Rung) -> Result<(), String> {
    if rung.kind == RungKind::Kprobe && is_on() {
        Err(format!("{}: {REASON}", rung.hook()))
    } else {
        Ok(())
    }
}

/// The reason why a rung was refused, with this one where it is this one.
pub fn explain(rung: &Rung, reason: String) -> String {
    if is_on() && (rung.kind == RungKind::Kprobe || reason.contains("bpf_probe_read")) {
        format!("{REASON} ({reason})")
    } else {
        reason
    }
}
