//! What the threads of watched processes wait for: a CPU, and who has it, or anything else.
//!
//! A thread's entry is changed by the scheduler's own steps alone, which the kernel orders for
//! each task; so no lock is needed.

use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{Array, HashMap, Stack};
use aya_ebpf::programs::BtfTracePointContext;
use ebpf_abi::{
    ABSENT, Counter, Doing, TAKERS, THREAD_BUCKETS, THREADS as COUNT, Taker, Thread, WaitRecord,
    thread_bucket,
};

use crate::access::{Access, Direct};
use crate::fields::{Field, is_present};
use crate::rings::{count, urgent_now};
use crate::watch::is_watched_tgid;

/// The threads; user space maps them.
#[map]
static THREADS: Array<Thread> = Array::with_max_entries(COUNT, BPF_F_MMAPABLE);

/// Where each thread's entry is.
#[map]
static TIDS: HashMap<u32, u32> = HashMap::with_max_entries(COUNT, 0);

/// Empty entries. User space puts them there, at first and once a thread that ended is accounted.
#[map]
static FREE: Stack<u32> = Stack::with_max_entries(COUNT, 0);

/// The place of `sched_switch`'s `prev_state` among its arguments; before 5.18 there is none.
#[unsafe(no_mangle)]
static SWITCH_STATE: u32 = ABSENT;

/// A wait of so many nanoseconds is told at once.
#[unsafe(no_mangle)]
static LONG_WAIT: u64 = 50_000_000;

/// How often at most a thread's waits are told, in nanoseconds.
const PAUSE: u64 = 1_000_000_000;

const TASK_UNINTERRUPTIBLE: u32 = 2;
const PF_EXITING: u32 = 4;

#[derive(Clone, Copy)]
struct Task(*const c_void);

impl Task {
    #[inline(always)]
    fn tgid(self) -> u32 {
        // SAFETY: a tracepoint's `struct task_struct`, as everywhere below.
        unsafe { Direct::load(self.0, Field::TASK_TGID) }
    }

    #[inline(always)]
    fn tid(self) -> u32 {
        // SAFETY: as above.
        unsafe { Direct::load(self.0, Field::TASK_PID) }
    }

    #[inline(always)]
    fn comm(self) -> [u8; 16] {
        let offset = Field::TASK_COMM.offset() as usize;
        // SAFETY: as above; both halves lie within the field.
        unsafe {
            let comm = self.0.byte_add(offset).cast::<u64>();
            let halves = [read_volatile(comm), read_volatile(comm.add(1))];
            core::mem::transmute::<[u64; 2], [u8; 16]>(halves)
        }
    }

    #[inline(always)]
    fn is_exiting(self) -> bool {
        // SAFETY: as above.
        unsafe { Direct::load::<u32>(self.0, Field::TASK_FLAGS) & PF_EXITING != 0 }
    }

    #[inline(always)]
    fn is_on_cpu(self) -> bool {
        // SAFETY: as above.
        is_present(Field::TASK_ON_CPU)
            && unsafe { Direct::load::<u32>(self.0, Field::TASK_ON_CPU) != 0 }
    }
}

/// `sched_switch(preempt, prev, next[, prev_state])`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev = Task(ctx.arg(1));
    let next = Task(ctx.arg(2));
    let (from, to) = (prev.tgid(), next.tgid());
    // The idle task, of which there is one for every CPU, is the commonest.
    let leaves = from != 0 && is_watched_tgid(from);
    let enters = to != 0 && is_watched_tgid(to);
    if !leaves && !enters {
        return 0;
    }
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    if leaves {
        // SAFETY: a static.
        let state = if unsafe { read_volatile(&raw const SWITCH_STATE) } == 3 {
            ctx.arg::<u32>(3)
        } else {
            // SAFETY: as for [`Task`].
            unsafe { Direct::load(prev.0, Field::TASK_STATE) }
        };
        // What the kernel counts as involuntary (kernel/sched/core.c, __schedule).
        let is_taken = ctx.arg::<i32>(0) as u8 != 0 || state == 0;
        if let Some(thread) = entry(prev, from, Doing::Running, now) {
            thread.is_running(now);
            if is_taken {
                thread.is_taken(next, to, now);
            } else {
                thread.sleeps(state & TASK_UNINTERRUPTIBLE != 0, now);
            }
        }
    }
    if enters && let Some(thread) = entry(next, to, Doing::Running, now) {
        thread.runs(prev, from, now);
    }
    0
}

/// `sched_wakeup(task)`: it is runnable now.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    wakes(Task(ctx.arg(0)));
    0
}

/// `sched_wakeup_new(task)`: for the first time.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    wakes(Task(ctx.arg(0)));
    0
}

#[inline(always)]
fn wakes(task: Task) {
    let tgid = task.tgid();
    if tgid == 0 || !is_watched_tgid(tgid) {
        return;
    }
    // SAFETY: the helper takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // A thread may be woken before it had the time to sleep: it is running still.
    let doing = if task.is_on_cpu() {
        Doing::Running
    } else {
        Doing::Woken
    };
    if let Some(thread) = entry(task, tgid, doing, now) {
        thread.is_woken(now);
    }
}

/// A thread's entry; a new one where it has none.
#[inline(always)]
fn entry(task: Task, tgid: u32, doing: Doing, now: u64) -> Option<Entry> {
    let tid = task.tid();
    match find(tid) {
        Some(entry) => Some(entry),
        None => take(task, tid, tgid, doing, now),
    }
}

#[inline(always)]
fn find(tid: u32) -> Option<Entry> {
    // SAFETY: a number that never changes while it is in the map.
    let index = unsafe { read_volatile(TIDS.get_ptr(&tid)?) };
    let thread = THREADS.get_ptr_mut(index)?;
    // The map's element may have been given to another thread just now.
    // SAFETY: an element of the map.
    (unsafe { read_volatile(&raw const (*thread).tid) } == tid).then_some(Entry(thread))
}

#[inline(always)]
fn take(task: Task, tid: u32, tgid: u32, doing: Doing, now: u64) -> Option<Entry> {
    if task.is_exiting() {
        return None;
    }
    let index = FREE.pop().ok().flatten().unwrap_or(ABSENT);
    let Some(thread) = THREADS.get_ptr_mut(index) else {
        count(Counter::ThreadsFull);
        return None;
    };
    if TIDS.insert(tid, index, BPF_NOEXIST.into()).is_err() {
        let _ = FREE.push(index, 0);
        return None;
    }
    // SAFETY: an element of the map that user space emptied and nobody else has.
    unsafe {
        (*thread).tgid = tgid;
        (*thread).comm = task.comm();
        (*thread).doing = doing as u8;
        (*thread).since = now;
        write_volatile(&raw mut (*thread).tid, tid);
    }
    Some(Entry(thread))
}

/// The thread ended, or has another id from now on.
#[inline(always)]
pub fn end(tid: u32) {
    if let Some(Entry(thread)) = find(tid) {
        let _ = TIDS.remove(tid);
        // SAFETY: an element of the map.
        unsafe { write_volatile(&raw mut (*thread).ended, 1) };
    }
}

/// The thread has another name.
///
/// # Safety
///
/// `comm` is a string of the kernel's.
#[inline(always)]
pub unsafe fn rename(tid: u32, comm: *const u8) {
    if let Some(Entry(thread)) = find(tid) {
        // SAFETY: an element of the map; the helper checks the string's address.
        unsafe {
            let to = &raw mut (*thread).comm;
            bpf_probe_read_kernel_str(to.cast(), 16, comm.cast());
        }
    }
}

#[derive(Clone, Copy)]
struct Entry(*mut Thread);

impl Entry {
    /// It has a CPU, which it is about to leave. Where it was not seen to have got it, a sleep ends
    /// here, and how long it waited is not known.
    #[inline(always)]
    fn is_running(self, now: u64) {
        // SAFETY: an element of the map.
        let doing = unsafe { (*self.0).doing };
        if doing == Doing::Running as u8 {
            return;
        }
        count(Counter::SwitchesMissed);
        if doing == Doing::Sleeping as u8 || doing == Doing::Blocked as u8 {
            self.slept(doing, now);
        }
    }

    /// Another takes its CPU.
    #[inline(always)]
    fn is_taken(self, by: Task, tgid: u32, now: u64) {
        let thread = self.0;
        let (tid, comm) = (by.tid(), by.comm());
        // SAFETY: an element of the map; indices are masked or constant.
        unsafe {
            (*thread).doing = Doing::Preempted as u8;
            (*thread).since = now;
            (*thread).preempted += 1;
            (*thread).last.tgid = tgid;
            (*thread).last.tid = tid;
            (*thread).last.comm = comm;
            (*thread).last.count = 1;
            (*thread).last.longest = 0;

            let takers = (&raw mut (*thread).takers).cast::<Taker>();
            let mut chosen = 0;
            let mut least = u64::MAX;
            let mut found = false;
            let mut index = 0;
            while index < TAKERS {
                let taker = takers.add(index);
                let count = read_volatile(&raw const (*taker).count);
                if !found {
                    if count != 0 && (*taker).tgid == tgid {
                        found = true;
                        chosen = index;
                    } else if count < least {
                        least = count;
                        chosen = index;
                    }
                }
                index += 1;
            }
            let taker = takers.add(chosen & (TAKERS - 1));
            if !found {
                (*taker).tgid = tgid;
                (*taker).longest = 0;
            }
            (*taker).tid = tid;
            (*taker).comm = comm;
            (*taker).count += 1;
            (*thread).taker = chosen as u8;
        }
    }

    /// It gives its CPU away.
    #[inline(always)]
    fn sleeps(self, is_blocked: bool, now: u64) {
        let thread = self.0;
        let doing = if is_blocked {
            Doing::Blocked
        } else {
            Doing::Sleeping
        };
        // SAFETY: an element of the map.
        unsafe {
            (*thread).doing = doing as u8;
            (*thread).since = now;
            (*thread).voluntary += 1;
        }
    }

    #[inline(always)]
    fn is_woken(self, now: u64) {
        // SAFETY: an element of the map.
        unsafe {
            let doing = (*self.0).doing;
            if doing == Doing::Sleeping as u8 || doing == Doing::Blocked as u8 {
                self.slept(doing, now);
                (*self.0).doing = Doing::Woken as u8;
                (*self.0).since = now;
            }
        }
    }

    #[inline(always)]
    fn slept(self, doing: u8, now: u64) {
        let thread = self.0;
        // SAFETY: an element of the map; the bucket is masked.
        unsafe {
            let time = now.saturating_sub((*thread).since);
            if doing == Doing::Blocked as u8 {
                (*thread).blocked += time;
            } else {
                (*thread).slept += time;
            }
            increment((&raw mut (*thread).off_cpu).cast(), time);
        }
    }

    /// It gets a CPU, from `prev`.
    #[inline(always)]
    fn runs(self, prev: Task, prev_tgid: u32, now: u64) {
        let thread = self.0;
        // SAFETY: an element of the map; indices are masked.
        unsafe {
            let doing = (*thread).doing;
            if doing == Doing::Preempted as u8 || doing == Doing::Woken as u8 {
                let waited = now.saturating_sub((*thread).since);
                (*thread).waits += 1;
                (*thread).waited += waited;
                if waited > (*thread).longest {
                    (*thread).longest = waited;
                }
                increment((&raw mut (*thread).run_queue).cast(), waited);
                if doing == Doing::Preempted as u8 {
                    (*thread).last.longest = waited;
                    let takers = (&raw mut (*thread).takers).cast::<Taker>();
                    let taker = takers.add((*thread).taker as usize & (TAKERS - 1));
                    if waited > (*taker).longest {
                        (*taker).longest = waited;
                    }
                }
                if waited >= read_volatile(&raw const LONG_WAIT)
                    && now.saturating_sub((*thread).told_at) >= PAUSE
                {
                    (*thread).told_at = now;
                    self.tell(doing, prev, prev_tgid, waited, now);
                }
            } else if doing == Doing::Sleeping as u8 || doing == Doing::Blocked as u8 {
                self.slept(doing, now);
            }
            (*thread).doing = Doing::Running as u8;
            (*thread).since = now;
        }
    }

    #[inline(always)]
    fn tell(self, doing: u8, prev: Task, prev_tgid: u32, waited: u64, now: u64) {
        let thread = self.0;
        // SAFETY: an element of the map.
        unsafe {
            let mut record = WaitRecord {
                at: now,
                kind: WaitRecord::KIND,
                doing,
                reserved: [0; 2],
                tid: (*thread).tid,
                tgid: (*thread).tgid,
                by_tgid: prev_tgid,
                by_tid: prev.tid(),
                reserved2: 0,
                waited,
                comm: (*thread).comm,
                by_comm: prev.comm(),
            };
            if doing == Doing::Preempted as u8 {
                record.by_tgid = (*thread).last.tgid;
                record.by_tid = (*thread).last.tid;
                record.by_comm = (*thread).last.comm;
            }
            urgent_now(record);
        }
    }
}

#[inline(always)]
unsafe fn increment(histogram: *mut u32, nanos: u64) {
    let index = thread_bucket(nanos) as usize & (THREAD_BUCKETS - 1);
    // SAFETY: the caller's histogram; the index is within it.
    unsafe {
        let count = histogram.add(index);
        write_volatile(count, read_volatile(count).wrapping_add(1));
    }
}
