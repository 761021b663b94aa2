//! Connections: their states, what they send and receive, and how they fail. The programs
//! themselves are in [`crate::tcp_hooks`].

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
};
use ebpf_abi::{Event, EventKind, NO_SLOT, RetransmitCause, VACANT};

use crate::access::Access;
use crate::fields::{Field, is_present};
use crate::filter::{is_chosen, is_selective, is_watched, listens};
use crate::rings::{Wake, bulk, urgent};
use crate::sock::{
    self, CLOSE, CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, NEW_SYN_RECV,
    SYN_RECV, SYN_SENT,
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

/// Where a TCP header has the window (RFC 9293, section 3.1).
const WINDOW_OFFSET: usize = 14;

/// A socket changes state, before the change is made.
///
/// # Safety
///
/// `sk` is a `struct sock`.
#[inline(always)]
pub unsafe fn state_changes<A: Access>(sk: *const c_void, from: u8, to: u8) {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        if to == LISTEN {
            if is_watched::<A>(sk) {
                listens::<A>(sk);
            }
            return;
        }
        if from == LISTEN || !is_watched::<A>(sk) {
            return;
        }
        let mut entry = slot_of::<A>(sk);
        let opens = to == SYN_SENT || to == ESTABLISHED;
        // connect() runs in the caller's context; other changes may run in anyone's.
        let connects = from == CLOSE && to == SYN_SENT;
        if entry.is_none() && is_selective() && !(opens && is_chosen::<A>(sk, connects)) {
            return;
        }
        let Some(tcp) = A::tcp(sk) else { return };
        let mut event = tcp_event::<A>(EventKind::State, sk, tcp);
        event.from = from;
        event.to = to;
        event.error = error::<A>(sk);
        if connects {
            event.owner = (bpf_get_current_pid_tgid() >> 32) as u32;
            event.comm = bpf_get_current_comm().unwrap_or([0; 16]);
        }
        if opens {
            if entry.is_none() {
                entry = table::take(event.cookie);
            } else if from == SYN_SENT && entry.is_ready() {
                event.value = entry.handshake(event.at);
            }
            // The handshake's own sequence numbers are no data, and the local port is chosen after
            // a connect's first change of state: all of the slot is filled again.
            if entry.is_some() {
                entry.fill::<A>(event.cookie, sk, tcp, to);
            }
        }
        event.slot = entry.index;
        if entry.is_some() {
            match to {
                SYN_SENT => entry.set_opened(event.at),
                FIN_WAIT1 => {
                    entry.note_half_closed::<A>(tcp);
                    entry.note_fin::<A>(tcp, event.at);
                }
                CLOSE_WAIT => entry.note_half_closed::<A>(tcp),
                LAST_ACK => entry.note_fin::<A>(tcp, event.at),
                FIN_WAIT2 => entry.note_all_acknowledged(event.at),
                _ => {}
            }
            if to == CLOSE {
                entry.release();
            } else {
                entry.set_state(to);
            }
        }
        // Connections that open and close in order are no news that hurries.
        let is_failure = event.error != 0 || (from == SYN_SENT && to == CLOSE);
        urgent(&event, if is_failure { Wake::Now } else { Wake::Later });
    }
}

/// A segment comes in on an established connection; nothing in it is processed yet.
///
/// # Safety
///
/// `sk` is a `struct sock`, `skb` a `struct sk_buff` whose data begins with the TCP header.
#[inline(always)]
pub unsafe fn received<A: Access>(sk: *const c_void, skb: *const c_void) {
    // SAFETY: both by the caller's promise.
    unsafe {
        if !is_watched::<A>(sk) {
            return;
        }
        let entry = watched_slot::<A>(sk, false);
        if entry.is_none() {
            return;
        }
        let Some(tcp) = A::tcp(sk) else { return };
        // What was sent since then left before this segment came in.
        let by_no_call = entry.note_sent::<A>(tcp);
        let ack: u32 = A::load_nested(skb, Field::SKB_CB, Field::CB_ACK_SEQ);
        // Reading the clock waits for all loads before it: so they wait for memory together.
        let may_change = is_present(Field::SKB_DATA) && entry.may_change_window::<A>(tcp, ack);
        let now = bpf_ktime_get_ns();
        // Calls look at the round-trip times. Here it is done where data leaves without, as in a long
        // transfer, and once a second, for what the last acknowledgement before a pause has changed.
        if by_no_call || entry.is_second_new(now) {
            entry.refresh::<A>(tcp);
        }
        if may_change {
            let header: *const u8 = A::load(skb, Field::SKB_DATA);
            if let Ok(window) =
                bpf_probe_read_kernel(header.wrapping_add(WINDOW_OFFSET).cast::<u16>())
            {
                note_window::<A>(entry, sk, tcp, window == 0, now);
            }
        }
        entry.note_received(ack, now);
    }
}

/// A call sends, or has sent.
///
/// # Safety
///
/// `sk` is a `struct sock`; the current thread makes the call.
#[inline(always)]
pub unsafe fn sends<A: Access>(sk: *const c_void) {
    // SAFETY: by the caller's promise.
    unsafe {
        let state: u8 = A::load(sk, Field::SK_STATE);
        if (state != ESTABLISHED && state != CLOSE_WAIT) || !is_watched::<A>(sk) {
            return;
        }
        let entry = watched_slot::<A>(sk, true);
        if entry.is_none() {
            return;
        }
        let Some(tcp) = A::tcp(sk) else { return };
        entry.note_sent::<A>(tcp);
        entry.note_acknowledged::<A>(tcp);
        entry.count_send();
        entry.refresh::<A>(tcp);
        let is_closed = A::load::<u32>(tcp, Field::TP_SND_WND) == 0;
        if entry.window_differs(is_closed) {
            note_window::<A>(entry, sk, tcp, is_closed, bpf_ktime_get_ns());
        }
    }
}

/// A segment leaves, new or again.
///
/// # Safety
///
/// `sk` is a `struct sock`, `skb` a `struct sk_buff` with TCP's control block.
#[inline(always)]
pub unsafe fn leaves<A: Access>(sk: *const c_void, skb: *const c_void) {
    // SAFETY: both by the caller's promise.
    unsafe {
        let end: u32 = A::load_nested(skb, Field::SKB_CB, Field::CB_END_SEQ);
        if end == A::load_nested::<u32>(skb, Field::SKB_CB, Field::CB_SEQ) {
            return;
        }
        let state: u8 = A::load(sk, Field::SK_STATE);
        if state == SYN_SENT || state == SYN_RECV || !is_watched::<A>(sk) {
            return;
        }
        let entry = watched_slot::<A>(sk, false);
        if entry.is_some()
            && let Some(tcp) = A::tcp(sk)
        {
            entry.note_sent_until::<A>(tcp, end);
        }
    }
}

/// Which retransmissions a hook sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    All,
    /// Only tail loss probes are this hook's.
    TailLossProbes,
    /// Tail loss probes do not come by.
    Others,
}

/// The kernel retransmits a segment.
///
/// # Safety
///
/// `sk` is a `struct sock`.
#[inline(always)]
pub unsafe fn retransmits<A: Access>(sk: *const c_void, seen: Seen) {
    // SAFETY: by the caller's promise.
    unsafe {
        if !is_watched::<A>(sk) {
            return;
        }
        let entry = slot_of::<A>(sk);
        if entry.is_none() && is_selective() {
            return;
        }
        let Some(tcp) = A::tcp(sk) else { return };
        let retransmits: u8 = A::load(tcp, Field::ICSK_RETRANSMITS);
        let state: u8 = A::load(sk, Field::SK_STATE);
        let mut cause = cause::<A>(tcp, state, retransmits) as u8;
        if cause == RetransmitCause::TailLossProbe as u8 {
            if seen == Seen::Others {
                cause = RetransmitCause::Other as u8;
            }
        } else if seen == Seen::TailLossProbes {
            return;
        }
        let mut event = tcp_event::<A>(EventKind::Retransmit, sk, tcp);
        event.cause = cause;
        event.count = u32::from(retransmits);
        event.slot = entry.index;
        if entry.is_some() {
            entry.note_sent::<A>(tcp);
            entry.note_retransmit(event.at);
            entry.refresh::<A>(tcp);
        }
        urgent(&event, Wake::Now);
    }
}

/// Why the kernel retransmits, from the socket's state while it does so.
#[inline(always)]
unsafe fn cause<A: Access>(tcp: *const c_void, state: u8, retransmits: u8) -> RetransmitCause {
    if state == SYN_SENT {
        return RetransmitCause::Syn;
    }
    // SAFETY: `tcp` by the caller's promise; the settings are statics.
    unsafe {
        let bits: u8 = A::load(tcp, Field::ICSK_CA_STATE);
        let shift = core::ptr::read_volatile(&raw const CA_STATE_SHIFT);
        let mask = core::ptr::read_volatile(&raw const CA_STATE_MASK);
        let ca_state = ((u32::from(bits) >> (shift & 7)) & mask) as u8;
        if ca_state == TCP_CA_RECOVERY {
            RetransmitCause::Fast
        } else if ca_state == TCP_CA_LOSS && retransmits > 0 {
            RetransmitCause::Timeout
        } else if is_present(Field::ICSK_PENDING)
            && A::load::<u8>(tcp, Field::ICSK_PENDING) == ICSK_TIME_LOSS_PROBE
        {
            // The timer stays pending while its handler runs.
            RetransmitCause::TailLossProbe
        } else {
            RetransmitCause::Other
        }
    }
}

/// The kernel retransmits a SYN-ACK: the connection is the request, not the listener.
///
/// # Safety
///
/// `request` is a `struct request_sock` or null.
#[inline(always)]
pub unsafe fn synack_again<A: Access>(request: *const c_void) {
    // SAFETY: a `struct request_sock` begins with a `struct sock_common`, as `struct sock` does.
    unsafe {
        if request.is_null() || !is_watched::<A>(request) {
            return;
        }
        if is_selective() && !is_chosen::<A>(request, false) {
            return;
        }
        let mut event = event::<A>(EventKind::Retransmit, request);
        event.to = NEW_SYN_RECV;
        event.cause = RetransmitCause::SynAck as u8;
        bulk(&event);
    }
}

/// A socket is no more: the last chance to give the slot back.
///
/// # Safety
///
/// `sk` is a `struct sock`.
#[inline(always)]
pub unsafe fn vanishes<A: Access>(sk: *const c_void) {
    // SAFETY: by the caller's promise.
    unsafe {
        if is_watched::<A>(sk) {
            table::forget::<A>(sk);
        }
    }
}

/// Tells what happens to a connection.
///
/// # Safety
///
/// `sk` is a `struct sock` or begins with a `struct sock_common`, or null.
#[inline(always)]
pub unsafe fn tell<A: Access>(kind: EventKind, sk: *const c_void) {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        if sk.is_null() || !is_watched::<A>(sk) {
            return;
        }
        let entry = slot_of::<A>(sk);
        if entry.is_none() && is_selective() {
            return;
        }
        let Some(tcp) = A::tcp(sk) else { return };
        let mut event = tcp_event::<A>(kind, sk, tcp);
        // Of a closed socket, the change of state told the error; the reset comes after it.
        if event.to == LISTEN || (event.to == CLOSE && kind as u8 == EventKind::Error as u8) {
            return;
        }
        event.error = error::<A>(sk);
        event.slot = entry.index;
        urgent(&event, Wake::Now);
    }
}

#[inline(always)]
unsafe fn note_window<A: Access>(
    entry: Entry,
    sk: *const c_void,
    tcp: *const c_void,
    is_closed: bool,
    now: u64,
) {
    if let Some(closed_for) = entry.note_window(is_closed, now) {
        // SAFETY: `sk` and `tcp` by the caller's promise.
        let mut event = unsafe { tcp_event::<A>(EventKind::Window, sk, tcp) };
        event.at = now;
        event.value = closed_for;
        event.slot = entry.index;
        urgent(&event, Wake::Later);
    }
}

#[inline(always)]
unsafe fn tcp_event<A: Access>(kind: EventKind, sk: *const c_void, tcp: *const c_void) -> Event {
    // SAFETY: `sk` and `tcp` by the caller's promise.
    unsafe {
        let mut event = event::<A>(kind, sk);
        if event.local_port == 0 && is_present(Field::INET_SPORT) {
            // The port is given back before the change to CLOSE, but this copy stays.
            event.local_port = u16::from_be(A::load(tcp, Field::INET_SPORT));
        }
        event
    }
}

#[inline(always)]
unsafe fn event<A: Access>(kind: EventKind, sk: *const c_void) -> Event {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        let ends = sock::ends::<A>(sk);
        let state: u8 = A::load(sk, Field::SK_STATE);
        Event {
            at: bpf_ktime_get_ns(),
            cookie: A::key(sk),
            value: 0,
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
unsafe fn error<A: Access>(sk: *const c_void) -> i32 {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        match A::load::<i32>(sk, Field::SK_ERR) {
            0 => A::load(sk, Field::SK_ERR_SOFT),
            error => error,
        }
    }
}

/// The connection's slot, if it has one.
#[inline(always)]
unsafe fn slot_of<A: Access>(sk: *const c_void) -> Entry {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        let found = table::search::<A>(sk);
        if found.former != VACANT {
            let mut event = event::<A>(EventKind::Adopted, sk);
            event.value = found.former;
            event.slot = found.entry.index;
            urgent(&event, Wake::Later);
        }
        found.entry
    }
}

/// The connection's slot; one that was there before it was watched gets one now, unless it is not
/// to be watched. `is_caller`: the current thread made the call.
#[inline(always)]
unsafe fn watched_slot<A: Access>(sk: *const c_void, is_caller: bool) -> Entry {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        let entry = table::at_home::<A>(sk);
        if entry.is_some() {
            return entry;
        }
        table::entry(adopted::<A>(sk, is_caller))
    }
}

/// The rare case, in a function of its own: what runs for each segment stays short and together.
#[inline(never)]
unsafe fn adopted<A: Access>(sk: *const c_void, is_caller: bool) -> u32 {
    // SAFETY: `sk` by the caller's promise.
    unsafe {
        let mut entry = slot_of::<A>(sk);
        if entry.is_some() && entry.is_ready() {
            return entry.index;
        }
        if entry.is_none() && is_selective() && !is_chosen::<A>(sk, is_caller) {
            return NO_SLOT;
        }
        let Some(tcp) = A::tcp(sk) else {
            return NO_SLOT;
        };
        let mut event = tcp_event::<A>(EventKind::Adopted, sk, tcp);
        if entry.is_none() {
            entry = table::take(event.cookie);
        }
        if entry.is_some() {
            entry.fill::<A>(event.cookie, sk, tcp, event.to);
            entry.note_inherited::<A>(tcp);
            if event.to != ESTABLISHED {
                entry.note_half_closed::<A>(tcp);
            }
            event.slot = entry.index;
            urgent(&event, Wake::Later);
        }
        entry.index
    }
}
