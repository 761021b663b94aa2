//! How a program reads the kernel: by its kind of hook.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::fields::{Field, is_present};
use crate::{fields, sock};

/// Reading kernel memory and telling sockets.
pub trait Access {
    /// Reads a field of a struct that `base` points to; zero where it cannot be read.
    ///
    /// # Safety
    ///
    /// `base` points to the field's struct, and `T` is no larger than the field.
    unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T;

    /// The socket as a TCP socket, if it is a full one.
    ///
    /// # Safety
    ///
    /// `sk` is a `struct sock` or begins with a `struct sock_common`.
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void>;

    /// What the connection is known by: the socket's cookie; where it has none and this kind of
    /// hook cannot make one, its address.
    ///
    /// # Safety
    ///
    /// As [`Access::tcp`].
    unsafe fn key(sk: *const c_void) -> u64;
}

/// Programs whose arguments the verifier knows: tp_btf, fentry and fexit.
pub struct Direct;

impl Access for Direct {
    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T {
        // SAFETY: by the caller's promise; the verifier checks it again.
        unsafe { fields::load(base, field) }
    }

    #[inline(always)]
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void> {
        // SAFETY: by the caller's promise.
        unsafe { sock::as_tcp(sk) }
    }

    #[inline(always)]
    unsafe fn key(sk: *const c_void) -> u64 {
        // SAFETY: by the caller's promise.
        unsafe { sock::cookie(sk) }
    }
}

/// Programs whose arguments are only numbers: kprobes.
pub struct Probed;

impl Access for Probed {
    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T {
        // SAFETY: the helper checks the address; a zeroed `T` is a number by the caller's promise.
        unsafe {
            bpf_probe_read_kernel(base.byte_add(field.offset() as usize).cast::<T>())
                .unwrap_or_else(|_| core::mem::zeroed())
        }
    }

    #[inline(always)]
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void> {
        const IPPROTO_TCP: u16 = 6;
        const TIME_WAIT: u8 = 6;
        const NEW_SYN_RECV: u8 = 12;
        // SAFETY: both fields lie in the struct, by the caller's promise.
        unsafe {
            let state: u8 = Self::load(sk, Field::SK_STATE);
            if state == TIME_WAIT || state == NEW_SYN_RECV || !is_present(Field::SK_PROTOCOL) {
                return None;
            }
            // Eight bits wide before Linux 5.6; the byte after it was `sk_type`'s.
            let protocol: u16 = Self::load(sk, Field::SK_PROTOCOL);
            (protocol == IPPROTO_TCP).then_some(sk)
        }
    }

    #[inline(always)]
    unsafe fn key(sk: *const c_void) -> u64 {
        // SAFETY: by the caller's promise.
        match unsafe { Self::load::<u64>(sk, Field::SK_COOKIE) } {
            0 => sk as u64,
            cookie => cookie,
        }
    }
}
