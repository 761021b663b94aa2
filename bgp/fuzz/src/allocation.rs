//! Counts what a thread allocates: no input may cost many times its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count by thread.
pub struct Counting;

fn count(bytes: usize) {
    // While a thread ends there is no counter any more; nothing is measured then.
    let _ = ALLOCATED.try_with(|total| total.set(total.get().wrapping_add(bytes)));
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's contract is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is that of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's contract is that of the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `work` returns, and how many bytes it allocated altogether (what it freed included).
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.with(Cell::get);
    let result = work();
    (result, ALLOCATED.with(Cell::get).wrapping_sub(before))
}
