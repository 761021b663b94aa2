//! An array map of the kernel, mapped: reading it costs no system call.

use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The mapping of an array of `T`, which is plain numbers (any bytes are a valid one). Holds the
/// map, so the kernel keeps it while we read.
#[derive(Debug)]
pub struct Mapped<T> {
    base: NonNull<T>,
    length: u32,
    _map: MapData,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that other CPUs write at any time anyway; all access is by
// volatile reads and atomics, and the pointer is valid as long as the mapping.
unsafe impl<T: Send> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// Maps an array of `length` elements, made with `BPF_F_MMAPABLE`.
    pub fn map(map: MapData, length: u32) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(length as usize * size_of::<T>())
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new shared mapping of a map's whole memory; nothing else is replaced.
        let base = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }?;
        Ok(Self {
            base: base.cast(),
            length,
            _map: map,
            _elements: PhantomData,
        })
    }

    /// How many elements there are.
    pub const fn len(&self) -> u32 {
        self.length
    }

    /// Where an element is; `None` where the index is out of range.
    pub fn get(&self, index: u32) -> Option<NonNull<T>> {
        // SAFETY: the index is within the mapping.
        (index < self.length).then(|| unsafe { self.base.add(index as usize) })
    }

    /// A copy of an element. The kernel may write meanwhile: every word stands on its own.
    pub fn read(&self, index: u32) -> Option<T> {
        // SAFETY: within the mapping, and any bytes are a valid `T`.
        self.get(index)
            .map(|element| unsafe { element.read_volatile() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.length as usize * size_of::<T>();
        // SAFETY: our own mapping, and nothing borrowed from it outlives `self`.
        if let Err(error) = unsafe { munmap(self.base.cast(), bytes) } {
            tracing::warn!(%error, "an array of the kernel stays mapped");
        }
    }
}
