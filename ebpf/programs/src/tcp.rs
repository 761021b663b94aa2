//! Connections: their states, what they send and receive, and how they fail.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use ebpf_abi::{Event, EventKind, NO_SLOT, RetransmitCause};

use crate::fields::{Field, is_present, load, load_nested};
use crate::filter::is_watched;
use crate::rings::{Wake, bulk, urgent};
use crate::sock::{
    self, CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, NEW_SYN_RECV, SYN_SENT, as_tcp, cookie,
};
use crate::table::{self, Entry};

/// The bits of `icsk_ca_state` in its byte, and how far they are shifted.
#[unsafe(no_mangle)]
static CA_STATE_MASK: u32 = 0x1f;
#[unsafe(no_mangle)]
static CA_STATE_SHIFT: u32 = 0;

const TCP_CA_RECOVERY: u8 = 3;
const TCP_CA_LOSS: u8 = 4;
const ICSK_TIME_LOSS_PROBE: u8 = 5;

/// `inet_sock_set_state(sk, old, new)`: before the change is made.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let from = ctx.arg::<i32>(1) as u8;
    let to = ctx.arg::<i32>(2) as u8;
    // SAFETY: `sk` is the tracepoint's `struct sock`.
    unsafe { changed(sk, from, to) };
    0
}

#[inline(always)]
unsafe fn changed(sk: *const c_void, from: u8, to: u8) {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        if from == LISTEN || to == LISTEN || !is_watched(sk) {
            return;
        }
        let Some(tcp) = as_tcp(sk) else { return };
        let mut event = tcp_event(EventKind::State, sk, tcp);
        event.from = from;
        event.to = to;
        event.error = error(sk);
        if from == CLOSE && to == SYN_SENT {
            // connect() runs in the caller's context; other changes may run in anyone's.
            event.owner = (bpf_get_current_pid_tgid() >> 32) as u32;
            event.comm = bpf_get_current_comm().unwrap_or([0; 16]);
        }
        event.slot = match to {
            CLOSE => table::release(event.cookie),
            SYN_SENT | ESTABLISHED => match table::find(event.cookie) {
                Some(entry) => {
                    entry.set_ends(&sock::ends(sk));
                    entry.restart(tcp);
                    entry.set_state(to);
                    entry.index
                }
                None => match table::take(event.cookie, sk, tcp, to, event.owner) {
                    Some(entry) => entry.index,
                    None => NO_SLOT,
                },
            },
            _ => match table::find(event.cookie) {
                Some(entry) => {
                    entry.set_state(to);
                    entry.index
                }
                None => NO_SLOT,
            },
        };
        // Connections that open and close in order are no news that hurries.
        let is_failure = event.error != 0 || (from == SYN_SENT && to == CLOSE);
        urgent(&event, if is_failure { Wake::Now } else { Wake::Later });
    }
}

/// `tcp_probe(sk, skb)`: at the start of every segment received in ESTABLISHED.
#[btf_tracepoint(function = "tcp_probe")]
pub fn tcp_receive(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let skb: *const c_void = ctx.arg(1);
    // SAFETY: the tracepoint's `struct sock` and `struct sk_buff`.
    unsafe {
        if !is_watched(sk) {
            return 0;
        }
        let Some(tcp) = as_tcp(sk) else { return 0 };
        let Some(entry) = entry_of(sk, tcp) else {
            return 0;
        };
        // What was sent since then left before this segment came in.
        entry.note_sent(tcp);
        let ack: u32 = load_nested(skb, Field::SKB_CB, Field::CB_ACK_SEQ);
        entry.note_received(ack, bpf_ktime_get_ns());
        entry.refresh(tcp);
    }
    0
}

/// `sock_send_length(sk, ret, flags)`: when a send call returns, of any family.
#[btf_tracepoint(function = "sock_send_length")]
pub fn tcp_send(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    if ctx.arg::<i32>(1) <= 0 {
        return 0;
    }
    // SAFETY: the tracepoint's `struct sock`.
    unsafe {
        if !is_watched(sk) {
            return 0;
        }
        let Some(tcp) = as_tcp(sk) else { return 0 };
        let state: u8 = load(sk, Field::SK_STATE);
        if state != ESTABLISHED && state != CLOSE_WAIT {
            return 0;
        }
        if let Some(entry) = entry_of(sk, tcp) {
            entry.note_sent(tcp);
            entry.note_send_call(tcp);
            entry.refresh(tcp);
        }
    }
    0
}

/// `tcp_retransmit_skb(sk, skb, ..)`.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe {
        if !is_watched(sk) {
            return 0;
        }
        let Some(tcp) = as_tcp(sk) else { return 0 };
        let mut event = tcp_event(EventKind::Retransmit, sk, tcp);
        let retransmits: u8 = load(tcp, Field::ICSK_RETRANSMITS);
        let cause = cause(tcp, event.to, retransmits);
        event.cause = cause as u8;
        event.count = u32::from(retransmits);
        if let Some(entry) = table::find(event.cookie) {
            entry.note_sent(tcp);
            entry.note_retransmit(cause, event.at);
            entry.refresh(tcp);
            event.slot = entry.index;
        }
        urgent(&event, Wake::Now);
    }
    0
}

/// Why the kernel retransmits, from the socket's state while it does so.
#[inline(always)]
unsafe fn cause(tcp: *const c_void, state: u8, retransmits: u8) -> RetransmitCause {
    if state == SYN_SENT {
        return RetransmitCause::Syn;
    }
    // SAFETY: `tcp` by the caller's promise; the settings are statics.
    unsafe {
        let bits: u8 = load(tcp, Field::ICSK_CA_STATE);
        let shift = core::ptr::read_volatile(&raw const CA_STATE_SHIFT);
        let mask = core::ptr::read_volatile(&raw const CA_STATE_MASK);
        let ca_state = ((u32::from(bits) >> (shift & 7)) & mask) as u8;
        if ca_state == TCP_CA_RECOVERY {
            RetransmitCause::Fast
        } else if ca_state == TCP_CA_LOSS && retransmits > 0 {
            RetransmitCause::Timeout
        } else if is_present(Field::ICSK_PENDING)
            && load::<u8>(tcp, Field::ICSK_PENDING) == ICSK_TIME_LOSS_PROBE
        {
            // The timer stays pending while its handler runs.
            RetransmitCause::TailLossProbe
        } else {
            RetransmitCause::Other
        }
    }
}

/// `tcp_retransmit_synack(sk, req)`: the connection is the request, not the listener.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub fn tcp_synack(ctx: BtfTracePointContext) -> i32 {
    let request: *const c_void = ctx.arg(1);
    // SAFETY: a `struct request_sock` begins with a `struct sock_common`, as `struct sock` does.
    unsafe {
        if request.is_null() || !is_watched(request) {
            return 0;
        }
        let mut event = event(EventKind::Retransmit, request);
        event.to = NEW_SYN_RECV;
        event.cause = RetransmitCause::SynAck as u8;
        bulk(&event);
    }
    0
}

/// `tcp_receive_reset(sk)`.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_reset_in(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe { tell(EventKind::ResetReceived, sk) };
    0
}

/// `tcp_send_reset(sk, skb, ..)`: without a socket where the segment belongs to none.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_reset_out(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    if !sk.is_null() {
        // SAFETY: the tracepoint's `struct sock`.
        unsafe { tell(EventKind::ResetSent, sk) };
    }
    0
}

/// `inet_sk_error_report(sk)`.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn tcp_error(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe { tell(EventKind::Error, sk) };
    0
}

/// `tcp_destroy_sock(sk)`: the last chance to give the slot back.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe {
        if is_watched(sk) {
            table::release(cookie(sk));
        }
    }
    0
}

#[inline(always)]
unsafe fn tell(kind: EventKind, sk: *const c_void) {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        if !is_watched(sk) {
            return;
        }
        let Some(tcp) = as_tcp(sk) else { return };
        let mut event = tcp_event(kind, sk, tcp);
        // Of a closed socket, the change of state told the error; the reset comes after it.
        if event.to == LISTEN || (event.to == CLOSE && kind as u8 == EventKind::Error as u8) {
            return;
        }
        event.error = error(sk);
        if let Some(entry) = table::find(event.cookie) {
            event.slot = entry.index;
        }
        urgent(&event, Wake::Now);
    }
}

#[inline(always)]
unsafe fn tcp_event(kind: EventKind, sk: *const c_void, tcp: *const c_void) -> Event {
    // SAFETY: `sk` and `tcp` by the caller's promise.
    unsafe {
        let mut event = event(kind, sk);
        if event.local_port == 0 && is_present(Field::INET_SPORT) {
            // The port is given back before the change to CLOSE, but this copy stays.
            event.local_port = u16::from_be(load(tcp, Field::INET_SPORT));
        }
        event
    }
}

#[inline(always)]
unsafe fn event(kind: EventKind, sk: *const c_void) -> Event {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        let ends = sock::ends(sk);
        let state: u8 = load(sk, Field::SK_STATE);
        Event {
            at: bpf_ktime_get_ns(),
            cookie: cookie(sk),
            local: core::mem::transmute::<[u64; 2], [u8; 16]>(ends.local),
            remote: core::mem::transmute::<[u64; 2], [u8; 16]>(ends.remote),
            local_port: ends.local_port,
            remote_port: ends.remote_port,
            kind: kind as u8,
            from: state,
            to: state,
            cause: 0,
            error: 0,
            owner: 0,
            slot: NO_SLOT,
            count: 0,
            comm: [0; 16],
        }
    }
}

#[inline(always)]
unsafe fn error(sk: *const c_void) -> i32 {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        match load::<i32>(sk, Field::SK_ERR) {
            0 => load(sk, Field::SK_ERR_SOFT),
            error => error,
        }
    }
}

/// The connection's slot; one that was there before it was watched gets one now.
#[inline(always)]
unsafe fn entry_of(sk: *const c_void, tcp: *const c_void) -> Option<Entry> {
    // SAFETY: `sk` and `tcp` by the caller's promise.
    unsafe {
        let cookie = cookie(sk);
        if let Some(entry) = table::find(cookie) {
            return Some(entry);
        }
        let state: u8 = load(sk, Field::SK_STATE);
        let entry = table::take(cookie, sk, tcp, state, 0)?;
        entry.note_inherited(tcp);
        let mut event = tcp_event(EventKind::Adopted, sk, tcp);
        event.slot = entry.index;
        urgent(&event, Wake::Later);
        Some(entry)
    }
}
