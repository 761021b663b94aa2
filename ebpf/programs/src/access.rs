//! How a program reads the kernel: by its kind of hook.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{self, bpf_get_socket_cookie, bpf_skc_to_tcp_sock};

use crate::fields::{Field, is_present};

/// Whether this kernel lets tracing programs make a socket's cookie (Linux 5.12 and later).
#[unsafe(no_mangle)]
static MAKES_COOKIES: u32 = 1;

/// Reading kernel memory and telling sockets.
pub trait Access {
    /// Reads at a byte offset from `base`; zero where it cannot be read.
    ///
    /// # Safety
    ///
    /// `base` points to a struct that has at that offset a number at least as large as `T`.
    unsafe fn load_at<T: Copy>(base: *const c_void, offset: u32) -> T;

    /// Reads a field of a struct that `base` points to; zero where it cannot be read.
    ///
    /// # Safety
    ///
    /// `base` points to the field's struct, and `T` is no larger than the field.
    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T {
        // SAFETY: by the caller's promise.
        unsafe { Self::load_at(base, field.offset()) }
    }

    /// Reads a field of a struct that lies inside another.
    ///
    /// # Safety
    ///
    /// As [`Access::load`], for the sum of both offsets.
    #[inline(always)]
    unsafe fn load_nested<T: Copy>(base: *const c_void, outer: Field, inner: Field) -> T {
        // SAFETY: by the caller's promise.
        unsafe { Self::load_at(base, outer.offset() + inner.offset()) }
    }

    /// The socket as a TCP socket, if it is a full one.
    ///
    /// # Safety
    ///
    /// `sk` is a `struct sock` or begins with a `struct sock_common`.
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void>;

    /// The socket's cookie, made if it has none yet; zero where it has none and this hook on this
    /// kernel cannot make one.
    ///
    /// # Safety
    ///
    /// As [`Access::tcp`].
    unsafe fn cookie(sk: *const c_void) -> u64;

    /// The socket's address as a number.
    fn address(sk: *const c_void) -> u64;

    /// What the connection is known by: the socket's cookie, else its address.
    ///
    /// # Safety
    ///
    /// As [`Access::tcp`].
    #[inline(always)]
    unsafe fn key(sk: *const c_void) -> u64 {
        // SAFETY: by the caller's promise.
        match unsafe { Self::cookie(sk) } {
            0 => Self::address(sk),
            cookie => cookie,
        }
    }
}

/// Programs whose arguments the verifier knows: tp_btf, fentry and fexit.
pub struct Direct;

impl Access for Direct {
    #[inline(always)]
    unsafe fn load_at<T: Copy>(base: *const c_void, offset: u32) -> T {
        // SAFETY: by the caller's promise; the verifier checks it again.
        unsafe { read_volatile(base.byte_add(offset as usize).cast::<T>()) }
    }

    #[inline(always)]
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void> {
        // SAFETY: by the caller's promise.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) };
        if tcp.is_null() {
            None
        } else {
            Some(tcp.cast_const().cast())
        }
    }

    #[inline(always)]
    unsafe fn cookie(sk: *const c_void) -> u64 {
        // SAFETY: by the caller's promise; the setting is a static.
        unsafe {
            match Self::load::<u64>(sk, Field::SK_COOKIE) {
                0 if read_volatile(&raw const MAKES_COOKIES) != 0 => {
                    bpf_get_socket_cookie(sk.cast_mut())
                }
                cookie => cookie,
            }
        }
    }

    #[inline(always)]
    unsafe fn key(sk: *const c_void) -> u64 {
        // Where cookies can be made none is zero. Said again here, so that the read by address is
        // pruned: kernels in lockdown have no helper for it.
        // SAFETY: by the caller's promise; the setting is a static.
        unsafe {
            match Self::cookie(sk) {
                0 if read_volatile(&raw const MAKES_COOKIES) == 0 => Self::address(sk),
                cookie => cookie,
            }
        }
    }

    #[inline(always)]
    fn address(sk: *const c_void) -> u64 {
        // The verifier lets nobody compute with a pointer that it knows; a copy made by a helper
        // is a number.
        // SAFETY: reads the pointer itself, which is on the stack.
        unsafe { bpf_probe_read_kernel((&raw const sk).cast::<u64>()).unwrap_or(0) }
    }
}

/// Programs whose arguments are only numbers: kprobes.
pub struct Probed;

impl Access for Probed {
    #[inline(always)]
    unsafe fn load_at<T: Copy>(base: *const c_void, offset: u32) -> T {
        // What cannot be read the helper fills with zeros. Its result is not looked at: each look
        // would be two paths for the verifier, and before Linux 6.1 these multiply.
        // SAFETY: the helper checks the address, and fills all of a number.
        unsafe {
            let mut value = MaybeUninit::<T>::uninit();
            generated::bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                base.byte_add(offset as usize),
            );
            value.assume_init()
        }
    }

    #[inline(always)]
    unsafe fn tcp(sk: *const c_void) -> Option<*const c_void> {
        const IPPROTO_TCP: u8 = 6;
        const TIME_WAIT: u8 = 6;
        const NEW_SYN_RECV: u8 = 12;
        // SAFETY: both fields lie in the struct, by the caller's promise.
        unsafe {
            let state: u8 = Self::load(sk, Field::SK_STATE);
            if state == TIME_WAIT || state == NEW_SYN_RECV || !is_present(Field::SK_PROTOCOL) {
                return None;
            }
            // 16 bits wide, for the sake of MPTCP, whose number is no byte: 262.
            let protocol: u16 = Self::load(sk, Field::SK_PROTOCOL);
            (protocol == u16::from(IPPROTO_TCP)).then_some(sk)
        }
    }

    #[inline(always)]
    unsafe fn cookie(sk: *const c_void) -> u64 {
        // SAFETY: by the caller's promise.
        unsafe { Self::load(sk, Field::SK_COOKIE) }
    }

    #[inline(always)]
    fn address(sk: *const c_void) -> u64 {
        sk as u64
    }
}
