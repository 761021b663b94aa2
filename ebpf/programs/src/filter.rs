//! What is not watched is left alone before any work is done.

use core::ffi::c_void;
use core::ptr::read_volatile;

use crate::fields::{Field, load};
use crate::sock::{AF_INET, AF_INET6, V4_MAPPED};

/// Connections between addresses of this host are ignored unless this is 0.
#[unsafe(no_mangle)]
pub static IGNORE_LOCAL: u32 = 1;

/// The network namespace that is watched.
#[unsafe(no_mangle)]
pub static NETNS: u32 = 0;

/// How many of `PORTS` count; 0: every port is watched.
#[unsafe(no_mangle)]
static PORT_COUNT: u32 = 0;

/// Ports watched, of either end.
#[unsafe(no_mangle)]
static PORTS: [u16; 8] = [0; 8];

/// Whether the socket, of any family and protocol, is to be watched.
///
/// # Safety
///
/// `sk` is a `struct sock` or begins like one.
#[inline(always)]
pub unsafe fn is_watched(sk: *const c_void) -> bool {
    // SAFETY: the fields are of `struct sock`; the settings are statics.
    unsafe {
        let family: u16 = load(sk, Field::SK_FAMILY);
        if family != AF_INET && family != AF_INET6 {
            return false;
        }
        if read_volatile(&raw const IGNORE_LOCAL) != 0 && is_local(sk, family) {
            return false;
        }
        let net: *const c_void = load(sk, Field::SK_NET);
        if load::<u32>(net, Field::NET_INUM) != read_volatile(&raw const NETNS) {
            return false;
        }
        match read_volatile(&raw const PORT_COUNT) {
            0 => true,
            count => is_watched_port(sk, count),
        }
    }
}

#[inline(always)]
unsafe fn is_local(sk: *const c_void, family: u16) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        if family == AF_INET6 {
            let remote = sk.byte_add(0);
            let (high, low) = crate::sock::load_v6(remote, Field::SK_V6_DADDR);
            let (own_high, own_low) = crate::sock::load_v6(remote, Field::SK_V6_RCV_SADDR);
            if high == 0 && low as u32 == V4_MAPPED {
                return (low >> 32) as u8 == 127 || low == own_low;
            }
            (high == 0 && low == 1 << 56) || (high == own_high && low == own_low)
        } else {
            let remote: u32 = load(sk, Field::SK_DADDR);
            remote as u8 == 127 || remote == load::<u32>(sk, Field::SK_RCV_SADDR)
        }
    }
}

#[inline(always)]
unsafe fn is_watched_port(sk: *const c_void, count: u32) -> bool {
    // SAFETY: by the caller's promise; the index is within the array.
    unsafe {
        let remote = u16::from_be(load::<u16>(sk, Field::SK_DPORT));
        let local: u16 = load(sk, Field::SK_NUM);
        let mut index = 0;
        while index < 8 {
            if index < count {
                let port = read_volatile((&raw const PORTS).cast::<u16>().add(index as usize));
                if port == remote || port == local {
                    return true;
                }
            }
            index += 1;
        }
        false
    }
}
