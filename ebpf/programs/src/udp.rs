//! Datagrams that watched threads send and receive: counted per thread, told one by one only for
//! threads that seldom send.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel,
};
use aya_ebpf::macros::{btf_tracepoint, fexit, kprobe, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::{BtfTracePointContext, FExitContext, ProbeContext};
use ebpf_abi::{ABSENT, Counter, DATAGRAM, Datagram, RARE, UDP_THREADS, UdpThread, WINDOW};

use crate::access::{Access, Direct, Probed};
use crate::arguments::argument;
use crate::fields::{Field, is_present};
use crate::filter::is_here;
use crate::message::is_aside;
use crate::rings::{call, count};
use crate::sock::{self, AF_INET, AF_INET6};
use crate::watch;

/// Which arguments of `udp_recvmsg` and `udpv6_recvmsg` the flags are, and where the return values
/// are.
#[unsafe(no_mangle)]
static UDP_RECV_FLAGS: u32 = ABSENT;
#[unsafe(no_mangle)]
static UDP_RECV_RETURN: u32 = ABSENT;
#[unsafe(no_mangle)]
static UDP6_RECV_FLAGS: u32 = ABSENT;
#[unsafe(no_mangle)]
static UDP6_RECV_RETURN: u32 = ABSENT;

const IPPROTO_UDP: u16 = 17;
const EAGAIN: i32 = 11;
/// `sizeof(struct sockaddr_in)`.
const SOCKADDR_IN: i32 = 16;

/// Threads by `pid << 32 | tid`.
#[map]
static UDP: LruHashMap<u64, UdpThread> = LruHashMap::with_max_entries(UDP_THREADS, 0);

/// `udp_sendmsg(sk, msg, len)`.
#[fexit(function = "udp_sendmsg")]
pub fn udp_send_out(ctx: FExitContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the function's `struct sock` and `struct msghdr`, and its return value.
    unsafe {
        // Of an IPv6 socket that sends to an IPv4 address, `udpv6_sendmsg` calls this one.
        if Direct::load::<u16>(sk, Field::SK_FAMILY) == AF_INET {
            sent::<Direct>(sk, ctx.arg(1), ctx.arg(3), 0);
        }
    }
    0
}

/// `udpv6_sendmsg(sk, msg, len)`.
#[fexit(function = "udpv6_sendmsg")]
pub fn udp6_send_out(ctx: FExitContext) -> i32 {
    let msg: *const c_void = ctx.arg(1);
    // SAFETY: the function's `struct sock` and `struct msghdr`, and its return value.
    unsafe {
        // To an IPv4 address, kernels that do not restore the caller's address leave one here
        // that no longer exists.
        let name = if Direct::load::<i32>(msg, Field::MSG_NAMELEN) == SOCKADDR_IN {
            core::ptr::null()
        } else {
            msg
        };
        sent::<Direct>(ctx.arg(0), name, ctx.arg(3), 0);
    }
    0
}

/// `udp_recvmsg(sk, msg, len, .., flags, ..)`.
#[fexit(function = "udp_recvmsg")]
pub fn udp_recv_out(ctx: FExitContext) -> i32 {
    // SAFETY: statics; the function's `struct sock`.
    unsafe {
        let flags = argument(ctx.as_ptr(), read_volatile(&raw const UDP_RECV_FLAGS));
        let result = argument(ctx.as_ptr(), read_volatile(&raw const UDP_RECV_RETURN));
        if let (Some(flags), Some(result)) = (flags, result)
            && !is_aside(flags as u32)
        {
            received::<Direct>(ctx.arg(0), result as i32);
        }
    }
    0
}

/// `udpv6_recvmsg(sk, msg, len, .., flags, ..)`.
#[fexit(function = "udpv6_recvmsg")]
pub fn udp6_recv_out(ctx: FExitContext) -> i32 {
    // SAFETY: statics; the function's `struct sock`.
    unsafe {
        let flags = argument(ctx.as_ptr(), read_volatile(&raw const UDP6_RECV_FLAGS));
        let result = argument(ctx.as_ptr(), read_volatile(&raw const UDP6_RECV_RETURN));
        if let (Some(flags), Some(result)) = (flags, result)
            && !is_aside(flags as u32)
        {
            received::<Direct>(ctx.arg(0), result as i32);
        }
    }
    0
}

/// `udp_sendmsg(sk, msg, len)`, where its end cannot be seen.
#[kprobe]
pub fn udp_send_kp(ctx: ProbeContext) -> u32 {
    // SAFETY: the function's arguments.
    unsafe {
        if let (Some(sk), Some(msg), Some(size)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2))
            // Of an IPv6 socket that sends to an IPv4 address, `udpv6_sendmsg` calls this one.
            && Probed::load::<u16>(sk, Field::SK_FAMILY) == AF_INET
        {
            sent::<Probed>(sk, msg, size.min(i32::MAX as u64) as i32, 1);
        }
    }
    0
}

/// `udpv6_sendmsg(sk, msg, len)`, where its end cannot be seen.
#[kprobe]
pub fn udp6_send_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(msg), Some(size)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u64>(2)) {
        // SAFETY: the function's arguments.
        unsafe { sent::<Probed>(sk, msg, size.min(i32::MAX as u64) as i32, 1) };
    }
    0
}

/// `skb_consume_udp(sk, skb, len)`: a datagram has been handed to the caller. Negative: it was only
/// looked at.
#[kprobe]
pub fn udp_consumed_kp(ctx: ProbeContext) -> u32 {
    if let (Some(sk), Some(length @ 0..)) = (ctx.arg(0), ctx.arg::<i32>(2)) {
        // SAFETY: the function's arguments.
        unsafe { received::<Probed>(sk, length) };
    }
    0
}

/// `sock_send_length(sk, ret, flags)`: when a send returns, of any family.
#[btf_tracepoint(function = "sock_send_length")]
pub fn udp_send_tp(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe {
        if Direct::load::<u16>(sk, Field::SK_PROTOCOL) == IPPROTO_UDP {
            sent::<Direct>(sk, core::ptr::null(), ctx.arg(1), 0);
        }
    }
    0
}

/// `sock_recv_length(sk, ret, flags)`: when a receive returns, of any family.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn udp_recv_tp(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct sock`.
    unsafe {
        if Direct::load::<u16>(sk, Field::SK_PROTOCOL) == IPPROTO_UDP && !is_aside(ctx.arg(2)) {
            received::<Direct>(sk, ctx.arg(1));
        }
    }
    0
}

#[inline(always)]
unsafe fn received<A: Access>(sk: *const c_void, result: i32) {
    // SAFETY: by the caller's promise; an element of the map, which only this thread writes.
    unsafe {
        if result == -EAGAIN || !is_here::<A>(sk) || !watch::is_current() {
            return;
        }
        let now = bpf_ktime_get_ns();
        let Some(thread) = thread(now) else { return };
        if result < 0 {
            (*thread).receive_errors = (*thread).receive_errors.wrapping_add(1);
            return;
        }
        (*thread).received_at = now;
        (*thread).received += 1;
        (*thread).received_bytes += u64::from(result as u32);
        count(Counter::UdpReceived);
    }
}

/// `msg` may be null where it is not known.
#[inline(always)]
unsafe fn sent<A: Access>(sk: *const c_void, msg: *const c_void, result: i32, asked: u8) {
    // SAFETY: by the caller's promise; an element of the map, which only this thread writes.
    unsafe {
        if result == -EAGAIN || !is_here::<A>(sk) || !watch::is_current() {
            return;
        }
        let now = bpf_ktime_get_ns();
        let Some(thread) = thread(now) else { return };
        (*thread).window_sends = (*thread).window_sends.wrapping_add(1);
        if result < 0 {
            (*thread).send_errors = (*thread).send_errors.wrapping_add(1);
        } else {
            (*thread).sent_at = now;
            (*thread).sent += 1;
            (*thread).sent_bytes += u64::from(result as u32);
            count(Counter::UdpSent);
        }
        if (*thread).window_sends > RARE || (*thread).last_sends > RARE {
            count(Counter::UdpUnrecorded);
        } else {
            tell::<A>(sk, msg, now, result, asked);
        }
    }
}

/// The current thread's counters.
#[inline(always)]
fn thread(now: u64) -> Option<*mut UdpThread> {
    let key = bpf_get_current_pid_tgid();
    let Some(thread) = UDP.get_ptr_mut(key) else {
        let new = UdpThread {
            sent: 0,
            sent_bytes: 0,
            received: 0,
            received_bytes: 0,
            sent_at: 0,
            received_at: 0,
            window: now,
            window_sends: 0,
            last_sends: 0,
            send_errors: 0,
            receive_errors: 0,
            comm: bpf_get_current_comm().unwrap_or([0; 16]),
        };
        let _ = UDP.insert(key, new, BPF_ANY.into());
        return UDP.get_ptr_mut(key);
    };
    // SAFETY: an element of the map, which only this thread writes.
    unsafe {
        let age = now.wrapping_sub((*thread).window);
        if age >= WINDOW {
            (*thread).last_sends = if age < 2 * WINDOW {
                (*thread).window_sends
            } else {
                0
            };
            (*thread).window_sends = 0;
            (*thread).window = now;
            (*thread).comm = bpf_get_current_comm().unwrap_or([0; 16]);
        }
    }
    Some(thread)
}

#[inline(always)]
unsafe fn tell<A: Access>(sk: *const c_void, msg: *const c_void, now: u64, result: i32, asked: u8) {
    // SAFETY: by the caller's promise.
    unsafe {
        let ends = sock::ends::<A>(sk);
        let (remote, remote_port) =
            destination::<A>(msg).unwrap_or((ends.remote, ends.remote_port));
        let thread = bpf_get_current_pid_tgid();
        call(&Datagram {
            at: now,
            kind: DATAGRAM,
            asked,
            reserved: [0; 2],
            result,
            cookie: A::key(sk),
            local: core::mem::transmute::<[u64; 2], [u8; 16]>(ends.local),
            remote: core::mem::transmute::<[u64; 2], [u8; 16]>(remote),
            local_port: ends.local_port,
            remote_port,
            pid: (thread >> 32) as u32,
            tid: thread as u32,
            reserved2: 0,
            comm: bpf_get_current_comm().unwrap_or([0; 16]),
        });
    }
}

/// The address that the caller gave; `None`: the socket's own.
#[inline(always)]
unsafe fn destination<A: Access>(msg: *const c_void) -> Option<([u64; 2], u16)> {
    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Name {
        family: u16,
        port: u16,
        v4: u32,
        v6: [u32; 4],
    }
    if msg.is_null() || !is_present(Field::MSG_NAME) {
        return None;
    }
    // SAFETY: by the caller's promise; the helper checks the address.
    unsafe {
        let name = A::load::<u64>(msg, Field::MSG_NAME) as *const Name;
        if name.is_null() {
            return None;
        }
        let family = bpf_probe_read_kernel(&raw const (*name).family).ok()?;
        let port = u16::from_be(bpf_probe_read_kernel(&raw const (*name).port).ok()?);
        if family == AF_INET {
            let address = bpf_probe_read_kernel(&raw const (*name).v4).ok()?;
            return Some(([0, sock::mapped(address)], port));
        }
        if family == AF_INET6 {
            let address = bpf_probe_read_kernel(&raw const (*name).v6).ok()?;
            let address = core::mem::transmute::<[u32; 4], [u64; 2]>(address);
            return Some((address, port));
        }
        None
    }
}
