//! Arguments whose place differs between kernels.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::programs::ProbeContext;

use crate::histogram::opaque;

/// The argument, or the return value, of an fentry or fexit program at a place that is known when
/// the program is loaded.
///
/// The verifier takes only constant offsets into the context, so every place has a load of its own,
/// in assembly: the compiler would merge them into one with a computed offset.
#[inline(always)]
pub fn argument(context: *mut c_void, place: u32) -> Option<u64> {
    macro_rules! load {
        ($offset:literal) => {{
            let value: u64;
            // SAFETY: the verifier knows how long the context is.
            unsafe {
                asm!(
                    concat!("{value} = *(u64 *)({context} + ", $offset, ")"),
                    value = out(reg) value,
                    context = in(reg) context,
                );
            }
            Some(value)
        }};
    }
    match place {
        3 => load!("24"),
        4 => load!("32"),
        5 => load!("40"),
        6 => load!("48"),
        _ => None,
    }
}

/// The same of a kprobe.
#[inline(always)]
pub fn register(context: &ProbeContext, place: u32) -> Option<u64> {
    // Assembly, which the compiler cannot merge into one load with a computed offset.
    match place {
        3 => Some(opaque(context.arg(3)?)),
        4 => Some(opaque(context.arg(4)?)),
        _ => None,
    }
}
