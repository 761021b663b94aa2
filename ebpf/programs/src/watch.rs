//! The watched set: which processes are the validator.
//!
//! Decided where processes begin, change and end, so that none is missed for a moment: user space
//! only looks for those that were there before, and corrects.

use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, map};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::BtfTracePointContext;
use ebpf_abi::{Counter, ExecRecord, NAME, Name, NameKind, why};

use crate::access::{Access, Direct};
use crate::fields::{Field, is_present};
use crate::rings::{count, urgent_now};
use crate::sched;

/// Processes watched at once.
const PROCESSES: u32 = 4096;

/// Thread group ids of the watched processes, and [`why`] they are.
#[map]
pub static WATCHED: HashMap<u32, u32> = HashMap::with_max_entries(PROCESSES, 0);

/// What is declared, and which bit of [`why`] it stands for.
#[map]
static NAMES: HashMap<Name, u32> = HashMap::with_max_entries(128, 0);

/// Watched cgroups and those below them, by the number of their directory.
#[map]
static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);

/// Room for names, of each program its own: programs may interrupt one another.
#[map]
static SCRATCH: PerCpuArray<Name> = PerCpuArray::with_max_entries(3, 0);
const OF_EXEC: u32 = 0;
const OF_RENAME: u32 = 1;
const OF_MKDIR: u32 = 2;

/// The hierarchy whose cgroups count; 0 is the unified one (cgroup v2).
#[unsafe(no_mangle)]
static HIERARCHY: u32 = 0;

/// The bits that come from cgroups.
const BY_CGROUP: u32 = why::CGROUP | why::UNIT;

/// Whether the current thread belongs to a watched process. Meaningless in softirq.
#[inline(always)]
#[allow(dead_code)]
pub fn is_current() -> bool {
    is_watched_tgid((bpf_get_current_pid_tgid() >> 32) as u32)
}

/// Whether the process is watched.
#[inline(always)]
pub fn is_watched_tgid(tgid: u32) -> bool {
    WATCHED.get_ptr(&tgid).is_some()
}

#[inline(always)]
fn reasons(tgid: u32) -> u32 {
    // SAFETY: a number; whether it is this moment's or the last's does not matter.
    WATCHED
        .get_ptr(&tgid)
        .map_or(0, |value| unsafe { read_volatile(value) })
}

#[inline(always)]
fn set(tgid: u32, before: u32, after: u32) {
    if before == after {
        return;
    }
    if after == 0 {
        let _ = WATCHED.remove(tgid);
    } else if WATCHED.insert(tgid, after, 0).is_err() {
        count(Counter::WatchedFull);
    }
}

/// The bit that a text of the kernel's stands for; 0: it is not declared.
#[inline(always)]
unsafe fn declared(scratch: u32, kind: NameKind, text: *const u8) -> u32 {
    let Some(name) = SCRATCH.get_ptr_mut(scratch) else {
        return 0;
    };
    // SAFETY: this CPU's own, of this program alone; the helper checks the address of the text.
    unsafe {
        let words = name.cast::<u64>();
        let mut index = 0;
        while index < NAME / 8 {
            write_volatile(words.add(index), 0);
            index += 1;
        }
        bpf_probe_read_kernel_str(name.cast(), NAME as u32 - 1, text.cast());
        write_volatile(name.cast::<u8>().add(NAME - 1), kind as u8);
        NAMES
            .get_ptr(&*name)
            .map_or(0, |value| read_volatile(value))
    }
}

/// The bits of a task's cgroup in the unified hierarchy.
#[inline(always)]
unsafe fn cgroup_of(task: *const c_void) -> u32 {
    // SAFETY: the caller's `struct task_struct`.
    unsafe {
        let set: *const c_void = Direct::load(task, Field::TASK_CGROUPS);
        let cgroup: *const c_void = Direct::load(set, Field::CSS_CGROUP);
        let node: *const c_void = Direct::load(cgroup, Field::CGROUP_NODE);
        cgroup_bits(Direct::load(node, Field::NODE_ID))
    }
}

#[inline(always)]
fn cgroup_bits(id: u64) -> u32 {
    // SAFETY: a number.
    CGROUPS
        .get_ptr(&id)
        .map_or(0, |value| unsafe { read_volatile(value) })
}

#[inline(always)]
fn is_unified() -> bool {
    // SAFETY: a static.
    unsafe { read_volatile(&raw const HIERARCHY) == 0 }
}

/// `sched_process_fork(parent, child)`: before the child runs.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn watch_fork(ctx: BtfTracePointContext) -> i32 {
    let parent: *const c_void = ctx.arg(0);
    let child: *const c_void = ctx.arg(1);
    // SAFETY: the tracepoint's `struct task_struct`s.
    unsafe {
        let tgid: u32 = Direct::load(child, Field::TASK_TGID);
        let parent: u32 = Direct::load(parent, Field::TASK_TGID);
        if tgid == parent {
            return 0;
        }
        let mut bits = reasons(parent);
        if is_unified() {
            // The child may have been put into a cgroup of its own (CLONE_INTO_CGROUP).
            bits = (bits & !BY_CGROUP) | cgroup_of(child);
        }
        set(tgid, 0, bits);
    }
    0
}

/// `sched_process_exec(task, old_pid, bprm)`: before the first instruction of the new image.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn watch_exec(ctx: BtfTracePointContext) -> i32 {
    let task: *const c_void = ctx.arg(0);
    let old = ctx.arg::<i32>(1) as u32;
    let bprm: *const c_void = ctx.arg(2);
    // SAFETY: the tracepoint's `struct task_struct` and `struct linux_binprm`.
    unsafe {
        let tgid: u32 = Direct::load(task, Field::TASK_TGID);
        if old != tgid {
            // Another thread than the first: it has taken the first one's id.
            sched::end(old);
        }
        let before = reasons(tgid);
        let mut bits = before & (BY_CGROUP | why::COMM);
        bits |= declared(
            OF_EXEC,
            NameKind::Executable,
            Direct::load(bprm, Field::BPRM_FILENAME),
        );
        let file: *const c_void = Direct::load(bprm, Field::BPRM_FILE);
        let dentry: *const c_void = Direct::load(file, Field::FILE_DENTRY);
        bits |= declared(
            OF_EXEC,
            NameKind::File,
            Direct::load(dentry, Field::DENTRY_NAME),
        );
        set(tgid, before, bits);
        if bits & why::PROVISIONAL != 0 {
            let record = ExecRecord {
                at: bpf_ktime_get_ns(),
                kind: ExecRecord::KIND,
                reserved: [0; 3],
                tgid,
            };
            urgent_now(record);
        }
    }
    0
}

/// `task_rename(task, comm)`: by `prctl`, by writing to /proc, and by execve.
#[btf_tracepoint(function = "task_rename")]
pub fn watch_rename(ctx: BtfTracePointContext) -> i32 {
    let task: *const c_void = ctx.arg(0);
    let comm: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's `struct task_struct` and kernel string.
    unsafe {
        let tgid: u32 = Direct::load(task, Field::TASK_TGID);
        let tid: u32 = Direct::load(task, Field::TASK_PID);
        let before = reasons(tgid);
        if tid == tgid {
            let bits = declared(OF_RENAME, NameKind::Comm, comm);
            set(tgid, before, (before & !why::COMM) | bits);
        }
        if before != 0 {
            sched::rename(tid, comm);
        }
    }
    0
}

/// `sched_process_exit(task, ..)`: of every thread, after it left the count of live ones.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn watch_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct task_struct`.
    unsafe {
        let tgid: u32 = Direct::load(task, Field::TASK_TGID);
        // Its process may have been watched until a moment ago.
        sched::end(Direct::load(task, Field::TASK_PID));
        if !is_watched_tgid(tgid) {
            return 0;
        }
        let signal: *const c_void = Direct::load(task, Field::TASK_SIGNAL);
        if Direct::load::<u32>(signal, Field::SIGNAL_LIVE) == 0 {
            let _ = WATCHED.remove(tgid);
        }
    }
    0
}

#[inline(always)]
unsafe fn counts(cgroup: *const c_void) -> bool {
    // SAFETY: the caller's `struct cgroup`.
    unsafe {
        let root: *const c_void = Direct::load(cgroup, Field::CGROUP_ROOT);
        Direct::load::<u32>(root, Field::ROOT_HIERARCHY) == read_volatile(&raw const HIERARCHY)
    }
}

/// `cgroup_attach_task(cgroup, path, leader, threadgroup)`.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn watch_cgroup_attach(ctx: BtfTracePointContext) -> i32 {
    let cgroup: *const c_void = ctx.arg(0);
    let task: *const c_void = ctx.arg(2);
    // SAFETY: the tracepoint's `struct cgroup` and `struct task_struct`.
    unsafe {
        if !counts(cgroup) {
            return 0;
        }
        let tgid: u32 = Direct::load(task, Field::TASK_TGID);
        // A single thread that is moved takes its process along only if it is the first.
        if Direct::load::<u32>(task, Field::TASK_PID) != tgid {
            return 0;
        }
        let node: *const c_void = Direct::load(cgroup, Field::CGROUP_NODE);
        let bits = cgroup_bits(Direct::load(node, Field::NODE_ID));
        let before = reasons(tgid);
        set(tgid, before, (before & !BY_CGROUP) | bits);
    }
    0
}

/// `cgroup_mkdir(cgroup, path)`: before any task can be in it.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn watch_cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup: *const c_void = ctx.arg(0);
    let path: *const u8 = ctx.arg(1);
    // SAFETY: the tracepoint's `struct cgroup` and kernel string.
    unsafe {
        if !counts(cgroup) {
            return 0;
        }
        let node: *const c_void = Direct::load(cgroup, Field::CGROUP_NODE);
        let parent: *const c_void = Direct::load(node, Field::NODE_PARENT);
        let bits = cgroup_bits(Direct::load(parent, Field::NODE_ID))
            | declared(OF_MKDIR, NameKind::CgroupPath, path)
            | declared(
                OF_MKDIR,
                NameKind::CgroupName,
                Direct::load(node, Field::NODE_NAME),
            );
        if bits != 0
            && CGROUPS
                .insert(Direct::load::<u64>(node, Field::NODE_ID), bits, 0)
                .is_err()
        {
            count(Counter::CgroupsFull);
        }
    }
    0
}

/// `cgroup_rmdir(cgroup, path)`.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn watch_cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup: *const c_void = ctx.arg(0);
    // SAFETY: the tracepoint's `struct cgroup`.
    unsafe {
        if counts(cgroup) && is_present(Field::NODE_ID) {
            let node: *const c_void = Direct::load(cgroup, Field::CGROUP_NODE);
            let _ = CGROUPS.remove(Direct::load::<u64>(node, Field::NODE_ID));
        }
    }
    0
}
