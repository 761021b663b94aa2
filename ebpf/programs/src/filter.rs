//! What is not watched is left alone before any work is done.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};

use crate::access::Access;
use crate::fields::Field;
use crate::sock::{self, AF_INET, AF_INET6, V4_MAPPED};
use crate::watch;

/// Connections between addresses of this host are ignored unless this is 0.
#[unsafe(no_mangle)]
static IGNORE_LOCAL: u32 = 1;

/// The network namespace that is watched.
#[unsafe(no_mangle)]
static NETNS: u32 = 0;

/// How many of `PORTS` count; 0: every port is watched.
#[unsafe(no_mangle)]
static PORT_COUNT: u32 = 0;

/// Ports watched, of either end.
#[unsafe(no_mangle)]
static PORTS: [u16; 8] = [0; 8];

/// Not 0: only connections of watched processes are watched.
#[unsafe(no_mangle)]
static BY_PROCESS: u32 = 0;

/// Not 0: only connections with peers in `PEERS` are watched.
#[unsafe(no_mangle)]
static BY_PEER: u32 = 0;

/// Networks whose peers are watched, as IPv6 (IPv4 as IPv4-mapped).
#[map]
static PEERS: LpmTrie<[u64; 2], u32> = LpmTrie::with_max_entries(1024, 0);

/// Ports that watched processes listen on: what comes in is theirs.
#[map]
static LISTENING: HashMap<u16, u32> = HashMap::with_max_entries(1024, 0);

/// Whether a socket that is not in the table is none of our business, because not everything is.
#[inline(always)]
pub fn is_selective() -> bool {
    // SAFETY: settings are statics.
    unsafe { read_volatile(&raw const BY_PROCESS) | read_volatile(&raw const BY_PEER) != 0 }
}

/// Whether the socket, of any family and protocol, may be watched at all.
///
/// # Safety
///
/// `sk` is a `struct sock` or begins like one.
#[inline(always)]
pub unsafe fn is_watched<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: the fields are of `struct sock`; the settings are statics.
    unsafe {
        let family: u16 = A::load(sk, Field::SK_FAMILY);
        if family != AF_INET && family != AF_INET6 {
            return false;
        }
        let count = read_volatile(&raw const PORT_COUNT);
        if count != 0 && !is_watched_port::<A>(sk, count) {
            return false;
        }
        if read_volatile(&raw const IGNORE_LOCAL) != 0 && is_local::<A>(sk, family) {
            return false;
        }
        let net: *const c_void = A::load(sk, Field::SK_NET);
        A::load::<u32>(net, Field::NET_INUM) == read_volatile(&raw const NETNS)
    }
}

/// Whether a connection that has no slot yet is to have one. `is_caller`: the current thread made
/// the call.
///
/// # Safety
///
/// As [`is_watched`], of an internet family.
#[inline(always)]
pub unsafe fn is_chosen<A: Access>(sk: *const c_void, is_caller: bool) -> bool {
    // SAFETY: by the caller's promise; the settings are statics.
    unsafe {
        if read_volatile(&raw const BY_PROCESS) != 0
            && !(is_caller && watch::is_current())
            && LISTENING
                .get_ptr(A::load::<u16>(sk, Field::SK_NUM))
                .is_none()
        {
            return false;
        }
        read_volatile(&raw const BY_PEER) == 0
            || PEERS
                .get(Key::new(128, sock::ends::<A>(sk).remote))
                .is_some()
    }
}

/// A thread begins to listen: what comes in is its process's.
///
/// # Safety
///
/// As [`is_watched`].
#[inline(always)]
pub unsafe fn listens<A: Access>(sk: *const c_void) {
    // SAFETY: by the caller's promise; the setting is a static.
    unsafe {
        if read_volatile(&raw const BY_PROCESS) != 0 && watch::is_current() {
            let port: u16 = A::load(sk, Field::SK_NUM);
            // Where the map is full, the next call of a watched process has the connection watched.
            let _ = LISTENING.insert(port, 1, 0);
        }
    }
}

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
/// `sk` is a connected `struct sock` of an internet family.
#[inline(always)]
pub unsafe fn is_ignored<A: Access>(sk: *const c_void) -> bool {
    // SAFETY: by the caller's promise; a static.
    unsafe {
        read_volatile(&raw const IGNORE_LOCAL) != 0
            && is_local::<A>(sk, A::load(sk, Field::SK_FAMILY))
    }
}

#[inline(always)]
unsafe fn is_local<A: Access>(sk: *const c_void, family: u16) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        if family == AF_INET6 {
            let (high, low) = sock::load_v6::<A>(sk, Field::SK_V6_DADDR);
            let (own_high, own_low) = sock::load_v6::<A>(sk, Field::SK_V6_RCV_SADDR);
            if high == 0 && low as u32 == V4_MAPPED {
                return (low >> 32) as u8 == 127 || low == own_low;
            }
            (high == 0 && low == 1 << 56) || (high == own_high && low == own_low)
        } else {
            let remote: u32 = A::load(sk, Field::SK_DADDR);
            remote as u8 == 127 || remote == A::load::<u32>(sk, Field::SK_RCV_SADDR)
        }
    }
}

#[inline(always)]
unsafe fn is_watched_port<A: Access>(sk: *const c_void, count: u32) -> bool {
    // SAFETY: by the caller's promise; the index is within the array.
    unsafe {
        let remote = u16::from_be(A::load::<u16>(sk, Field::SK_DPORT));
        let local: u16 = A::load(sk, Field::SK_NUM);
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
