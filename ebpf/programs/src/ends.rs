//! Both ends of sockets, by any kind of hook.

use core::ffi::c_void;
use core::ptr::read_volatile;

use crate::access::Access;
use crate::fields::{Field, is_present};
use crate::filter::{IGNORE_LOCAL, NETNS};
use crate::sock::{AF_INET, AF_INET6, Ends, V4_MAPPED};

/// Whether the socket is one of the internet's, in the network namespace that is watched.
///
/// # Safety
///
/// `sk` is a `struct sock`.
#[inline(always)]
pub unsafe fn is_here<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: by the caller's promise; a static.
    unsafe {
        let family: u16 = A::load(sk, Field::SK_FAMILY);
        if family != AF_INET && family != AF_INET6 {
            return false;
        }
        let net: *const c_void = A::load(sk, Field::SK_NET);
        A::load::<u32>(net, Field::NET_INUM) == read_volatile(&raw const NETNS)
    }
}

/// Whether the connection is between addresses of this host, and those are ignored.
///
/// # Safety
///
/// `sk` is a connected `struct sock` of the internet's.
#[inline(always)]
pub unsafe fn is_ignored<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: by the caller's promise; a static.
    unsafe {
        if read_volatile(&raw const IGNORE_LOCAL) == 0 {
            return false;
        }
        if A::load::<u16>(sk, Field::SK_FAMILY) == AF_INET6 && is_present(Field::SK_V6_DADDR) {
            let [high, low] = v6::<A>(sk, Field::SK_V6_DADDR);
            let own = v6::<A>(sk, Field::SK_V6_RCV_SADDR);
            let is_loopback = if high == 0 && low as u32 == V4_MAPPED {
                (low >> 32) as u8 == 127
            } else {
                high == 0 && low == 1u64.to_be()
            };
            is_loopback || own == [high, low]
        } else {
            let remote: u32 = A::load(sk, Field::SK_DADDR);
            remote as u8 == 127 || remote == A::load::<u32>(sk, Field::SK_RCV_SADDR)
        }
    }
}

/// Both ends, IPv4 addresses as IPv4-mapped.
///
/// # Safety
///
/// `sk` is a `struct sock` of the internet's.
#[inline(always)]
pub unsafe fn ends<A: Access>(sk: *const c_void) -> Ends {
    // SAFETY: by the caller's promise.
    unsafe {
        let is_v6 =
            A::load::<u16>(sk, Field::SK_FAMILY) == AF_INET6 && is_present(Field::SK_V6_DADDR);
        let (local, remote) = if is_v6 {
            (
                v6::<A>(sk, Field::SK_V6_RCV_SADDR),
                v6::<A>(sk, Field::SK_V6_DADDR),
            )
        } else {
            (
                mapped(A::load(sk, Field::SK_RCV_SADDR)),
                mapped(A::load(sk, Field::SK_DADDR)),
            )
        };
        Ends {
            local,
            remote,
            local_port: A::load(sk, Field::SK_NUM),
            remote_port: u16::from_be(A::load(sk, Field::SK_DPORT)),
        }
    }
}

/// This host's port of a TCP socket, also when it was given back because the connection failed.
///
/// # Safety
///
/// `sk` is a `struct sock` of TCP.
#[inline(always)]
pub unsafe fn local_port<A: Access>(sk: *const c_void) -> u16 {
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

#[inline(always)]
unsafe fn v6<A: Access>(sk: *const c_void, field: Field) -> [u64; 2] {
    // SAFETY: by the caller's promise: the field has 16 bytes.
    unsafe { [A::load(sk, field), A::load(sk.byte_add(8), field)] }
}

/// An IPv4 address as an IPv6 address in two words as they are in memory.
#[inline(always)]
pub fn mapped(address: u32) -> [u64; 2] {
    [0, (u64::from(address) << 32) | u64::from(V4_MAPPED)]
}
