//! Where the kernel's fields are: set by user space before the programs are loaded.
//!
//! The map that holds them is frozen, so the verifier treats every offset as a constant and removes
//! what is behind [`is_present`] for a field that this kernel lacks.

use core::ffi::c_void;
use core::ptr::read_volatile;

use ebpf_abi::ABSENT;

macro_rules! offsets {
    ($($symbol:ident: $ty:literal, $path:literal, $size:literal;)*) => {
        $(#[unsafe(no_mangle)] static $symbol: u32 = ABSENT;)*

        /// A field's offset.
        #[derive(Clone, Copy)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        pub enum Field { $($symbol,)* }

        impl Field {
            /// Where it is; [`ABSENT`] where this kernel lacks it.
            #[inline(always)]
            pub fn offset(self) -> u32 {
                match self {
                    // SAFETY: a static that lives as long as the program.
                    $(Self::$symbol => unsafe { read_volatile(&raw const $symbol) },)*
                }
            }
        }
    };
}

ebpf_abi::kernel_fields!(offsets);

/// Whether this kernel has the field.
#[inline(always)]
pub fn is_present(field: Field) -> bool {
    field.offset() != ABSENT
}

/// Reads a field directly.
///
/// # Safety
///
/// `base` is a pointer that the verifier knows to point to the field's struct, and `T` is no larger
/// than the field.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const c_void, field: Field) -> T {
    // SAFETY: by the caller's promise; the verifier checks it again.
    unsafe { read_volatile(base.byte_add(field.offset() as usize).cast::<T>()) }
}
