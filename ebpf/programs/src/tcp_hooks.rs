//! The programs that watch connections: for each probe one per kind of hook, with the same work
//! behind them.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext};
use ebpf_abi::{ABSENT, EventKind};

use crate::access::{Access, Direct, Probed};
use crate::fields::Field;
use crate::tcp::{
    Seen, leaves, received, retransmits, sends, state_changes, synack_again, tell, vanishes,
};

type Pointer = *const c_void;

/// The place of the error among the arguments of the tracepoint `tcp_retransmit_skb`, which fires
/// for failures too where it has one (Linux 6.16 and later).
#[unsafe(no_mangle)]
static RETRANSMIT_ERROR: u32 = ABSENT;

/// Programs: their kind, their name, what they call of what they are passed. Every argument is
/// what the kernel's prototype says at that place; user space checks that before it attaches.
macro_rules! programs {
    ($($(#[$doc:meta])* $kind:ident $name:ident($ctx:ident) $body:block)*) => {
        $(programs!(@$kind $(#[$doc])* $name($ctx) $body);)*
    };
    (@tracepoint $(#[$doc:meta])* $name:ident($ctx:ident) $body:block) => {
        $(#[$doc])*
        #[btf_tracepoint]
        pub fn $name($ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the arguments are what the prototype says.
            unsafe { $body }
            0
        }
    };
    (@entry $(#[$doc:meta])* $name:ident($ctx:ident) $body:block) => {
        $(#[$doc])*
        #[fentry]
        pub fn $name($ctx: FEntryContext) -> i32 {
            // SAFETY: the arguments are what the prototype says.
            unsafe { $body }
            0
        }
    };
    (@exit $(#[$doc:meta])* $name:ident($ctx:ident) $body:block) => {
        $(#[$doc])*
        #[fexit]
        pub fn $name($ctx: FExitContext) -> i32 {
            // SAFETY: the arguments are what the prototype says, then what is returned.
            unsafe { $body }
            0
        }
    };
    (@kprobe $(#[$doc:meta])* $name:ident($ctx:ident) $body:block) => {
        $(#[$doc])*
        #[kprobe]
        pub fn $name($ctx: ProbeContext) -> u32 {
            // SAFETY: the arguments are what the prototype says.
            unsafe { $body }
            0
        }
    };
}

programs! {
    /// `inet_sock_set_state(sk, old, new)`.
    tracepoint tcp_state(ctx) {
        let (from, to) = (ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8);
        state_changes::<Direct>(ctx.arg::<Pointer>(0), from, to)
    }
    /// `tcp_set_state(sk, state)`.
    entry tcp_state_entry(ctx) {
        let sk: Pointer = ctx.arg(0);
        state_changes::<Direct>(sk, Direct::load(sk, Field::SK_STATE), ctx.arg::<i32>(1) as u8)
    }
    /// As before.
    kprobe tcp_state_kprobe(ctx) {
        let sk = pointer(&ctx, 0);
        let to = ctx.arg::<i32>(1).unwrap_or(0) as u8;
        state_changes::<Probed>(sk, Probed::load(sk, Field::SK_STATE), to)
    }

    /// `tcp_probe(sk, skb)`: at the start of `tcp_rcv_established`.
    tracepoint tcp_receive(ctx) { received::<Direct>(ctx.arg(0), ctx.arg(1)) }
    /// `tcp_rcv_established(sk, skb)`.
    entry tcp_receive_entry(ctx) { received::<Direct>(ctx.arg(0), ctx.arg(1)) }
    /// As before.
    kprobe tcp_receive_kprobe(ctx) { received::<Probed>(pointer(&ctx, 0), pointer(&ctx, 1)) }

    /// `sock_send_length(sk, ret, flags)`: when a send call returns, of any family.
    tracepoint tcp_send(ctx) {
        if ctx.arg::<i32>(1) > 0 {
            sends::<Direct>(ctx.arg(0))
        }
    }
    /// `tcp_sendmsg(sk, msg, size)` returns.
    exit tcp_send_exit(ctx) {
        if ctx.arg::<i32>(3) > 0 {
            sends::<Direct>(ctx.arg(0))
        }
    }
    /// `tcp_sendmsg(sk, msg, size)` begins: what this call sends, the next program sees.
    kprobe tcp_send_kprobe(ctx) { sends::<Probed>(pointer(&ctx, 0)) }
    /// `__tcp_transmit_skb(sk, skb, ..)`.
    kprobe tcp_transmit_kprobe(ctx) { leaves::<Probed>(pointer(&ctx, 0), pointer(&ctx, 1)) }

    /// `tcp_retransmit_skb(sk, skb, ..)`.
    tracepoint tcp_retransmit(ctx) {
        if retransmit_error(&ctx) == 0 {
            retransmits::<Direct>(ctx.arg(0), Seen::All)
        }
    }
    /// `tcp_retransmit_skb(sk, skb, segs)` returns.
    exit tcp_retransmit_exit(ctx) {
        if ctx.arg::<i32>(3) == 0 {
            retransmits::<Direct>(ctx.arg(0), Seen::Others)
        }
    }
    /// `__tcp_retransmit_skb(sk, skb, segs)` returns. Tail loss probes call it; where the compiler
    /// has not merged them, `tcp_retransmit_skb` does too.
    exit tcp_loss_probe_exit(ctx) {
        if ctx.arg::<i32>(3) == 0 {
            retransmits::<Direct>(ctx.arg(0), Seen::TailLossProbes)
        }
    }
    /// `tcp_retransmit_skb(sk, skb, segs)` begins.
    kprobe tcp_retransmit_kprobe(ctx) { retransmits::<Probed>(pointer(&ctx, 0), Seen::Others) }
    /// `__tcp_retransmit_skb(sk, skb, segs)` begins.
    kprobe tcp_loss_probe_kprobe(ctx) {
        retransmits::<Probed>(pointer(&ctx, 0), Seen::TailLossProbes)
    }

    /// `tcp_retransmit_synack(sk, req)`.
    tracepoint tcp_synack(ctx) { synack_again::<Direct>(ctx.arg(1)) }
    /// `tcp_rtx_synack(sk, req)` returns.
    exit tcp_synack_exit(ctx) {
        if ctx.arg::<i32>(2) == 0 {
            synack_again::<Direct>(ctx.arg(1))
        }
    }
    /// `tcp_rtx_synack(sk, req)` begins.
    kprobe tcp_synack_kprobe(ctx) { synack_again::<Probed>(pointer(&ctx, 1)) }

    /// `tcp_receive_reset(sk)`.
    tracepoint tcp_reset_in(ctx) { tell::<Direct>(EventKind::ResetReceived, ctx.arg(0)) }
    /// `tcp_reset(sk, ..)`.
    entry tcp_reset_in_entry(ctx) { tell::<Direct>(EventKind::ResetReceived, ctx.arg(0)) }
    /// As before.
    kprobe tcp_reset_in_kprobe(ctx) { tell::<Probed>(EventKind::ResetReceived, pointer(&ctx, 0)) }

    /// `tcp_send_reset(sk, skb, ..)`: without a socket where the segment belongs to none.
    tracepoint tcp_reset_out(ctx) { tell::<Direct>(EventKind::ResetSent, ctx.arg(0)) }
    /// `tcp_send_active_reset(sk, ..)`.
    entry tcp_reset_active_entry(ctx) { tell::<Direct>(EventKind::ResetSent, ctx.arg(0)) }
    /// `tcp_v4_send_reset(sk, ..)`.
    entry tcp_reset_v4_entry(ctx) { tell::<Direct>(EventKind::ResetSent, ctx.arg(0)) }
    /// `tcp_v6_send_reset(sk, ..)`.
    entry tcp_reset_v6_entry(ctx) { tell::<Direct>(EventKind::ResetSent, ctx.arg(0)) }
    /// Any of these.
    kprobe tcp_reset_active_kprobe(ctx) { tell::<Probed>(EventKind::ResetSent, pointer(&ctx, 0)) }
    /// As before.
    kprobe tcp_reset_v4_kprobe(ctx) { tell::<Probed>(EventKind::ResetSent, pointer(&ctx, 0)) }
    /// As before.
    kprobe tcp_reset_v6_kprobe(ctx) { tell::<Probed>(EventKind::ResetSent, pointer(&ctx, 0)) }

    /// `inet_sk_error_report(sk)`.
    tracepoint tcp_error(ctx) { tell::<Direct>(EventKind::Error, ctx.arg(0)) }
    /// `sk_error_report(sk)`, before Linux 5.15 `sock_def_error_report(sk)`.
    entry tcp_error_entry(ctx) { tell::<Direct>(EventKind::Error, ctx.arg(0)) }
    /// As before.
    kprobe tcp_error_kprobe(ctx) { tell::<Probed>(EventKind::Error, pointer(&ctx, 0)) }

    /// `tcp_destroy_sock(sk)`.
    tracepoint tcp_destroy(ctx) { vanishes::<Direct>(ctx.arg(0)) }
    /// `tcp_v4_destroy_sock(sk)`, of both families.
    entry tcp_destroy_entry(ctx) { vanishes::<Direct>(ctx.arg(0)) }
    /// As before.
    kprobe tcp_destroy_kprobe(ctx) { vanishes::<Probed>(pointer(&ctx, 0)) }
}

/// An argument of a kprobe; null where there are not so many.
#[inline(always)]
fn pointer(ctx: &ProbeContext, index: usize) -> Pointer {
    ctx.arg(index).unwrap_or(core::ptr::null())
}

/// What the retransmission returned; 0 where this kernel does not tell, and tells of no failures.
#[inline(always)]
fn retransmit_error(ctx: &BtfTracePointContext) -> i32 {
    // SAFETY: the setting is a static; the context has the argument where the setting says so. The
    // place is compared with constants because the verifier takes no other offsets.
    unsafe {
        if core::ptr::read_volatile(&raw const RETRANSMIT_ERROR) == 2 {
            core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(2)) as i32
        } else {
            0
        }
    }
}
