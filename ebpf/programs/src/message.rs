//! Messages: one record per call of `tcp_sendmsg` and `tcp_recvmsg`.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext};
use ebpf_abi::{CALLS as MAX_CALLS, Counter, Direction, MESSAGE, Message, TOOK_UNKNOWN};

use crate::access::{Access, Direct, Probed};
use crate::arguments::{argument, register};
use crate::fields::{Field, is_present};
use crate::filter::{is_here, is_ignored};
use crate::rings::{call, count};
use crate::{sock, watch};

/// How many of `MESSAGE_PORTS` count.
#[unsafe(no_mangle)]
static MESSAGE_PORT_COUNT: u32 = 0;

/// Ports, of either end, whose messages are recorded.
#[unsafe(no_mangle)]
static MESSAGE_PORTS: [u16; 8] = [0; 8];

/// Not zero where messages of watched processes are recorded, whatever their ports.
#[unsafe(no_mangle)]
static MESSAGE_PROCESSES: u32 = 0;

/// Which argument of `tcp_recvmsg` the flags are, and where its return value is.
#[unsafe(no_mangle)]
static TCP_RECV_FLAGS: u32 = ebpf_abi::ABSENT;
#[unsafe(no_mangle)]
static TCP_RECV_RETURN: u32 = ebpf_abi::ABSENT;

const IPPROTO_TCP: u16 = 6;
const EAGAIN: i32 = 11;
const EEXIST: i32 = 17;
const MSG_PEEK: u32 = 0x2;
const MSG_WAITALL: u32 = 0x100;
const MSG_ERRQUEUE: u32 = 0x2000;

/// A call that has not returned yet.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    at: u64,
    sk: u64,
    /// Only on kprobes: bytes at which the call returns, bytes so far and when they came.
    target: u32,
    copied: u32,
    copied_at: u64,
}

/// Calls by thread (`pid << 32 | tid`). The entry of a call whose return goes unseen is replaced by
/// the thread's next call, or falls out when the map is full.
#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(MAX_CALLS, 0);

/// Whether these flags ask for something else than the stream's next bytes.
#[inline(always)]
pub fn is_aside(flags: u32) -> bool {
    flags & (MSG_PEEK | MSG_ERRQUEUE) != 0
}

/// `tcp_sendmsg(sk, msg, size)`.
#[fentry(function = "tcp_sendmsg")]
pub fn msg_send_in(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's `struct sock`.
    unsafe { enter::<Direct>(ctx.arg(0), 0) };
    0
}

/// The end of `tcp_sendmsg`.
#[fexit(function = "tcp_sendmsg")]
pub fn msg_send_out(ctx: FExitContext) -> i32 {
    // SAFETY: the function's `struct sock`, and the value after its three arguments.
    unsafe { leave(ctx.arg(0), Direction::Send, ctx.arg(3)) };
    0
}

/// `tcp_recvmsg(sk, msg, len, .., flags, ..)`.
#[fentry(function = "tcp_recvmsg")]
pub fn msg_recv_in(ctx: FEntryContext) -> i32 {
    // SAFETY: a static; the function's `struct sock`.
    unsafe {
        let place = read_volatile(&raw const TCP_RECV_FLAGS);
        if argument(ctx.as_ptr(), place).is_some_and(|flags| !is_aside(flags as u32)) {
            enter::<Direct>(ctx.arg(0), 0);
        }
    }
    0
}

/// The end of `tcp_recvmsg`.
#[fexit(function = "tcp_recvmsg")]
pub fn msg_recv_out(ctx: FExitContext) -> i32 {
    // SAFETY: statics; the function's `struct sock`.
    unsafe {
        let flags = argument(ctx.as_ptr(), read_volatile(&raw const TCP_RECV_FLAGS));
        let result = argument(ctx.as_ptr(), read_volatile(&raw const TCP_RECV_RETURN));
        if let (Some(flags), Some(result)) = (flags, result)
            && !is_aside(flags as u32)
        {
            leave(ctx.arg(0), Direction::Receive, result as i32);
        }
    }
    0
}

/// `tcp_sendmsg(sk, msg, size)`, where its end cannot be seen.
#[kprobe]
pub fn msg_send_kp(ctx: ProbeContext) -> u32 {
    let (Some(sk), Some(size)) = (ctx.arg::<*const c_void>(0), ctx.arg::<u64>(2)) else {
        return 0;
    };
    // SAFETY: the function's `struct sock`.
    unsafe {
        if is_declared::<Probed>(sk) {
            tell::<Probed>(
                sk,
                Told {
                    at: bpf_ktime_get_ns(),
                    took: TOOK_UNKNOWN,
                    direction: Direction::Send,
                    asked: 1,
                    result: size.min(i32::MAX as u64) as i32,
                },
            );
        }
    }
    0
}

/// `tcp_recvmsg(sk, msg, len, .., flags, ..)`, where its end cannot be seen.
#[kprobe]
pub fn msg_recv_kp(ctx: ProbeContext) -> u32 {
    let (Some(sk), Some(length)) = (ctx.arg::<*const c_void>(0), ctx.arg::<u64>(2)) else {
        return 0;
    };
    // SAFETY: a static; the function's `struct sock`; an element of the map.
    unsafe {
        let place = read_volatile(&raw const TCP_RECV_FLAGS);
        let Some(flags) = register(&ctx, place) else {
            return 0;
        };
        if !is_declared::<Probed>(sk) {
            return 0;
        }
        // What is left of the thread's last call: it returned nothing, or less than it waited for.
        let thread = bpf_get_current_pid_tgid();
        if let Some(call) = CALLS.get_ptr(thread) {
            let call = *call;
            let _ = CALLS.remove(thread);
            if call.copied > 0 && call.sk == sk as u64 {
                received(sk, &call, call.copied, call.copied_at);
            }
        }
        if is_aside(flags as u32) || length == 0 {
            return 0;
        }
        let length = length.min(u64::from(u32::MAX)) as u32;
        let target = if flags as u32 & MSG_WAITALL != 0 {
            length
        } else if is_present(Field::SK_RCVLOWAT) {
            Probed::load::<u32>(sk, Field::SK_RCVLOWAT)
                .max(1)
                .min(length)
        } else {
            1
        };
        enter_declared(sk, target);
    }
    0
}

/// `tcp_cleanup_rbuf(sk, copied)`: when a receive has bytes for the caller, and while it waits for
/// more.
#[kprobe]
pub fn msg_copied_kp(ctx: ProbeContext) -> u32 {
    let Some(copied) = ctx.arg::<i32>(1).filter(|copied| *copied > 0) else {
        return 0;
    };
    let Some(sk) = ctx.arg::<*const c_void>(0) else {
        return 0;
    };
    let thread = bpf_get_current_pid_tgid();
    let Some(call) = CALLS.get_ptr_mut(thread) else {
        return 0;
    };
    // SAFETY: an element of the map, which only this thread writes; the function's `struct sock`.
    unsafe {
        if (*call).sk != sk as u64 {
            return 0;
        }
        let now = bpf_ktime_get_ns();
        if (copied as u32) < (*call).target {
            (*call).copied = copied as u32;
            (*call).copied_at = now;
        } else {
            let call = *call;
            let _ = CALLS.remove(thread);
            received(sk, &call, copied as u32, now);
        }
    }
    0
}

#[inline(always)]
unsafe fn received(sk: *const c_void, call: &Call, bytes: u32, now: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        tell::<Probed>(
            sk,
            Told {
                at: call.at,
                took: now.saturating_sub(call.at),
                direction: Direction::Receive,
                asked: 0,
                result: bytes as i32,
            },
        );
    }
}

/// `sock_send_length(sk, ret, flags)`: when a send returns, of any family.
#[btf_tracepoint(function = "sock_send_length")]
pub fn msg_send_tp(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's `struct sock`.
    unsafe { returned(ctx.arg(0), Direction::Send, ctx.arg(1)) };
    0
}

/// `sock_recv_length(sk, ret, flags)`: when a receive returns, of any family.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn msg_recv_tp(ctx: BtfTracePointContext) -> i32 {
    if !is_aside(ctx.arg(2)) {
        // SAFETY: the tracepoint's `struct sock`.
        unsafe { returned(ctx.arg(0), Direction::Receive, ctx.arg(1)) };
    }
    0
}

#[inline(always)]
unsafe fn returned(sk: *const c_void, direction: Direction, result: i32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if Direct::load::<u16>(sk, Field::SK_PROTOCOL) != IPPROTO_TCP || !is_declared::<Direct>(sk)
        {
            return;
        }
        if result == -EAGAIN {
            count(Counter::MessageAgain);
            return;
        }
        let at = bpf_ktime_get_ns();
        tell::<Direct>(
            sk,
            Told {
                at,
                took: TOOK_UNKNOWN,
                direction,
                asked: 0,
                result,
            },
        );
    }
}

#[inline(always)]
unsafe fn enter<A: Access>(sk: *const c_void, target: u32) {
    // SAFETY: by the caller's promise.
    if unsafe { is_declared::<A>(sk) } {
        enter_declared(sk, target);
    }
}

#[inline(always)]
fn enter_declared(sk: *const c_void, target: u32) {
    let thread = bpf_get_current_pid_tgid();
    let call = Call {
        // SAFETY: no conditions.
        at: unsafe { bpf_ktime_get_ns() },
        sk: sk as u64,
        target,
        copied: 0,
        copied_at: 0,
    };
    if CALLS.insert(thread, call, BPF_NOEXIST.into()) == Err(-EEXIST) {
        count(Counter::MessageAbandoned);
        let _ = CALLS.insert(thread, call, BPF_ANY.into());
    }
}

#[inline(always)]
unsafe fn leave(sk: *const c_void, direction: Direction, result: i32) {
    // SAFETY: by the caller's promise; an element of the map.
    unsafe {
        if !is_declared::<Direct>(sk) {
            return;
        }
        let now = bpf_ktime_get_ns();
        let thread = bpf_get_current_pid_tgid();
        let entered = match CALLS.get_ptr(thread) {
            Some(call) if (*call).sk == sk as u64 => {
                let at = (*call).at;
                let _ = CALLS.remove(thread);
                Some(at)
            }
            _ => None,
        };
        if result == -EAGAIN {
            count(Counter::MessageAgain);
            return;
        }
        let (at, took) = match entered {
            Some(at) => (at, now.saturating_sub(at)),
            None => {
                count(Counter::MessageUnpaired);
                (now, TOOK_UNKNOWN)
            }
        };
        tell::<Direct>(
            sk,
            Told {
                at,
                took,
                direction,
                asked: 0,
                result,
            },
        );
    }
}

struct Told {
    at: u64,
    took: u64,
    direction: Direction,
    asked: u8,
    result: i32,
}

#[inline(always)]
unsafe fn tell<A: Access>(sk: *const c_void, told: Told) {
    // SAFETY: by the caller's promise.
    unsafe {
        let ends = sock::ends::<A>(sk);
        let thread = bpf_get_current_pid_tgid();
        call(&Message {
            at: told.at,
            kind: MESSAGE,
            direction: told.direction as u8,
            asked: told.asked,
            reserved: 0,
            result: told.result,
            took: told.took,
            cookie: A::key(sk),
            local: core::mem::transmute::<[u64; 2], [u8; 16]>(ends.local),
            remote: core::mem::transmute::<[u64; 2], [u8; 16]>(ends.remote),
            local_port: local_port::<A>(sk),
            remote_port: ends.remote_port,
            pid: (thread >> 32) as u32,
            tid: thread as u32,
            reserved2: 0,
            comm: bpf_get_current_comm().unwrap_or([0; 16]),
        });
    }
}

/// Whether the socket's messages are to be recorded: by its port, or by its caller.
#[inline(always)]
unsafe fn is_declared<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: by the caller's promise; statics.
    unsafe {
        if !is_here::<A>(sk) || is_ignored::<A>(sk) {
            return false;
        }
        is_declared_port::<A>(sk)
            || (read_volatile(&raw const MESSAGE_PROCESSES) != 0 && watch::is_current())
    }
}

#[inline(always)]
unsafe fn is_declared_port<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: by the caller's promise; the index is within the array.
    unsafe {
        let count = read_volatile(&raw const MESSAGE_PORT_COUNT);
        if count == 0 {
            return false;
        }
        let remote = u16::from_be(A::load(sk, Field::SK_DPORT));
        let local = local_port::<A>(sk);
        let mut index = 0;
        while index < 8 {
            if index < count {
                let port =
                    read_volatile((&raw const MESSAGE_PORTS).cast::<u16>().add(index as usize));
                if port == remote || port == local {
                    return true;
                }
            }
            index += 1;
        }
        false
    }
}

/// This host's port of a TCP socket, also when it was given back because the connection failed.
///
/// # Safety
///
/// `sk` is a `struct sock` of TCP.
#[inline(always)]
unsafe fn local_port<A: Access>(sk: *const c_void) -> u16 {
    // SAFETY: by the caller's promise.
    unsafe {
        let port: u16 = A::load(sk, Field::SK_NUM);
        if port != 0 || !is_present(Field::INET_SPORT) {
            return port;
        }
        match A::tcp(sk) {
            Some(tcp) => u16::from_be(A::load(tcp, Field::INET_SPORT)),
            None => 0,
        }
    }
}
