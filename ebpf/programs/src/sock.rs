//! Reading sockets.

use core::ffi::c_void;

use crate::access::Access;
use crate::fields::{Field, is_present};

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

pub const ESTABLISHED: u8 = 1;
pub const SYN_SENT: u8 = 2;
pub const SYN_RECV: u8 = 3;
pub const FIN_WAIT1: u8 = 4;
pub const FIN_WAIT2: u8 = 5;
pub const CLOSE: u8 = 7;
pub const CLOSE_WAIT: u8 = 8;
pub const LAST_ACK: u8 = 9;
pub const LISTEN: u8 = 10;
pub const NEW_SYN_RECV: u8 = 12;

/// Bytes 8 to 11 of an IPv4-mapped IPv6 address, as they are in memory.
pub const V4_MAPPED: u32 = 0xffff_u32.swap_bytes();

/// Both ends of a connection.
#[derive(Clone, Copy)]
pub struct Ends {
    pub local: [u64; 2],
    pub remote: [u64; 2],
    pub local_port: u16,
    pub remote_port: u16,
}

/// Both ends of a socket, IPv4 addresses as IPv4-mapped.
///
/// # Safety
///
/// `sk` is a `struct sock` or begins with a `struct sock_common`, of an internet family.
#[inline(always)]
pub unsafe fn ends<A: Access>(sk: *const c_void) -> Ends {
    // SAFETY: by the caller's promise.
    unsafe {
        let (local, remote) = if A::load::<u16>(sk, Field::SK_FAMILY) == AF_INET6 {
            let (a, b) = load_v6::<A>(sk, Field::SK_V6_RCV_SADDR);
            let (c, d) = load_v6::<A>(sk, Field::SK_V6_DADDR);
            ([a, b], [c, d])
        } else {
            (
                [0, mapped(A::load(sk, Field::SK_RCV_SADDR))],
                [0, mapped(A::load(sk, Field::SK_DADDR))],
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

/// An IPv6 address as two words as they are in memory; zero on a kernel without IPv6.
///
/// # Safety
///
/// As [`Access::load`].
#[inline(always)]
pub unsafe fn load_v6<A: Access>(sk: *const c_void, field: Field) -> (u64, u64) {
    if !is_present(field) {
        return (0, 0);
    }
    // SAFETY: by the caller's promise: the field has 16 bytes.
    unsafe {
        (
            A::load_at(sk, field.offset()),
            A::load_at(sk, field.offset() + 8),
        )
    }
}

/// The second half of an IPv4-mapped IPv6 address, as it is in memory.
#[inline(always)]
pub fn mapped(address: u32) -> u64 {
    (u64::from(address) << 32) | u64::from(V4_MAPPED)
}
