//! Requests to disks: how long they wait, how long the device takes, and whether they fail.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe, map};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};
use ebpf_abi::{
    BlockRecord, Counter, DISKS, Disk, KIND_BLOCK, OPERATIONS, Operation, REQUESTS, device,
};

use crate::access::{Access, Direct, Probed};
use crate::fields::{Field, is_present};
use crate::histogram::{add, increment, opaque};
use crate::rings::{self, count};

/// Which disks are watched, and where each is in [`DISK_TABLE`]. Written by user space.
#[map]
static DISK_INDEX: HashMap<u32, u32> = HashMap::with_max_entries(DISKS, 0);

#[map]
static DISK_TABLE: Array<Disk> = Array::with_max_entries(DISKS, BPF_F_MMAPABLE);

/// When each request under way was issued, by its address: the kernel reuses requests, so entries
/// of those that never complete are overwritten.
#[map]
static ISSUED: HashMap<u64, u64> = HashMap::with_max_entries(REQUESTS, 0);

/// A request that takes longer than so many nanoseconds is told of at once.
#[unsafe(no_mangle)]
static BLOCK_SLOW: u64 = 100_000_000;

/// `block_rq_issue(rq)` since Linux 5.11.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_issue(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's `struct request`.
    unsafe { issued::<Direct>(ctx.arg(0)) };
    0
}

/// `block_rq_issue(q, rq)` before Linux 5.11.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_issue_second(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's `struct request`.
    unsafe { issued::<Direct>(ctx.arg(1)) };
    0
}

/// `blk_mq_start_request(rq)`.
#[fentry(function = "blk_mq_start_request")]
pub fn block_issue_entry(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's `struct request`.
    unsafe { issued::<Direct>(ctx.arg(0)) };
    0
}

/// `blk_mq_start_request(rq)`.
#[kprobe(function = "blk_mq_start_request")]
pub fn block_issue_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(request) = ctx.arg(0) {
        // SAFETY: the function's `struct request`.
        unsafe { issued::<Probed>(request) };
    }
    0
}

/// `block_rq_complete(rq, error, nr_bytes)`.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_complete(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's `struct request`.
    unsafe { completed::<Direct>(ctx.arg(0), ctx.arg(1), ctx.arg(2)) };
    0
}

/// `blk_update_request(rq, error, nr_bytes)`.
#[fentry(function = "blk_update_request")]
pub fn block_complete_entry(ctx: FEntryContext) -> i32 {
    // SAFETY: the function's `struct request`.
    unsafe { completed::<Direct>(ctx.arg(0), status(ctx.arg(1)), ctx.arg(2)) };
    0
}

/// `blk_update_request(rq, error, nr_bytes)`.
#[kprobe(function = "blk_update_request")]
pub fn block_complete_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(request), Some(error), Some(bytes)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) {
        // SAFETY: the function's `struct request`.
        unsafe { completed::<Probed>(request, status(error), bytes) };
    }
    0
}

/// A `blk_status_t` is one byte: callers leave in the register above it what was there.
#[inline(always)]
const fn status(register: u32) -> i32 {
    (register & 0xff) as i32
}

#[inline(always)]
unsafe fn issued<A: Access>(request: *const c_void) {
    // SAFETY: `request` by the caller's promise.
    let Some(device) = (unsafe { device_of::<A>(request) }) else {
        return;
    };
    if DISK_INDEX.get_ptr(device).is_none() {
        count(Counter::DiskUnknown);
        return;
    }
    // SAFETY: reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if ISSUED.insert(request as u64, now, 0).is_err() {
        count(Counter::RequestsLost);
    }
}

#[inline(always)]
unsafe fn completed<A: Access>(request: *const c_void, error: i32, bytes: u32) {
    let key = request as u64;
    let Some(issued) = ISSUED.get_ptr(key) else {
        return;
    };
    // SAFETY: an element of the map; `request` by the caller's promise.
    unsafe {
        let issued = read_volatile(issued);
        // A request may complete in parts: the last one ends it.
        if bytes < A::load::<u32>(request, Field::RQ_LEN) {
            return;
        }
        let _ = ISSUED.remove(key);
        let Some(device) = device_of::<A>(request) else {
            return;
        };
        let Some(index) = DISK_INDEX.get_ptr(device) else {
            return;
        };
        let Some(disk) = DISK_TABLE.get_ptr_mut(read_volatile(index)) else {
            return;
        };
        let operation = Operation::of(A::load(request, Field::RQ_FLAGS));
        let now = bpf_ktime_get_ns();
        let service = now.saturating_sub(issued);
        let queue = waited::<A>(request, issued);
        let kind = opaque(operation as u64) as usize;
        if kind >= OPERATIONS {
            return;
        }
        let requests = &raw mut (*disk).operations[kind];
        add(&raw mut (*requests).completed, 1);
        add(&raw mut (*requests).bytes, u64::from(bytes));
        if error != 0 {
            add(&raw mut (*requests).errors, 1);
        }
        increment((&raw mut (*requests).service).cast(), service);
        let mut total = service;
        if queue != NOT_TOLD {
            increment((&raw mut (*requests).queue).cast(), queue);
            total = service.saturating_add(queue);
        }
        if error != 0 || total > read_volatile(&raw const BLOCK_SLOW) {
            rings::bulk(&BlockRecord {
                at: now,
                kind: KIND_BLOCK,
                operation: operation as u8,
                reserved: 0,
                device,
                queue,
                service,
                bytes,
                error,
            });
        }
    }
}

/// A time that the kernel did not take. No `Option`: its value is left undefined where there is none,
/// and verifiers before Linux 6.3 refuse to load such a value, though nobody looks at it.
const NOT_TOLD: u64 = u64::MAX;

/// How long the request waited for its issue: it has a start time where the queue keeps statistics.
#[inline(always)]
unsafe fn waited<A: Access>(request: *const c_void, issued: u64) -> u64 {
    if !is_present(Field::RQ_START) {
        return NOT_TOLD;
    }
    // SAFETY: `request` by the caller's promise.
    match unsafe { A::load::<u64>(request, Field::RQ_START) } {
        0 => NOT_TOLD,
        started => issued.saturating_sub(started),
    }
}

#[inline(always)]
unsafe fn device_of<A: Access>(request: *const c_void) -> Option<u32> {
    // SAFETY: `request` by the caller's promise; the pointers are followed as the kernel does.
    unsafe {
        let disk: *const c_void = if is_present(Field::Q_DISK) {
            let queue: *const c_void = A::load(request, Field::RQ_Q);
            if queue.is_null() {
                return None;
            }
            A::load(queue, Field::Q_DISK)
        } else {
            A::load(request, Field::RQ_DISK)
        };
        if disk.is_null() {
            return None;
        }
        Some(device(
            A::load(disk, Field::GD_MAJOR),
            A::load(disk, Field::GD_MINOR),
        ))
    }
}
