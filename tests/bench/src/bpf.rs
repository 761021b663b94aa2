//! The `bpf` system call, as far as measuring programs needs it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const ENABLE_STATS: libc::c_long = 32;

const STATS_RUN_TIME: u32 = 0;
/// `BPF_PROG_TYPE_TRACING`.
pub const TRACING: u32 = 26;

/// `union bpf_attr` of `BPF_PROG_LOAD`, as far as it is used (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    reserved: u32,
}

/// `union bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// `union bpf_attr` of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
struct Open {
    name: u64,
    prog_fd: u32,
    reserved: u32,
}

fn call<T>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attribute is a valid, initialised part of `union bpf_attr` of the length given;
    // pointers in it are valid for the duration of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as libc::c_int)
    }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel just returned it; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The kernel keeps each program's run time and count while this lives, and stops when the process
/// ends, however it ends (`BPF_ENABLE_STATS`, Linux 5.8).
pub struct Stats(#[expect(dead_code, reason = "held for its effect")] OwnedFd);

impl Stats {
    /// Begins.
    ///
    /// # Errors
    /// From `bpf(BPF_ENABLE_STATS)`.
    pub fn enable() -> io::Result<Self> {
        call(ENABLE_STATS, &mut [STATS_RUN_TIME]).map(|fd| Self(owned(fd)))
    }
}

/// What a program cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds inside it.
    pub nanos: u64,
    /// Times that it ran.
    pub runs: u64,
}

impl Cost {
    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(before.nanos),
            runs: self.runs.saturating_sub(before.runs),
        }
    }

    /// Nanoseconds per run.
    pub fn mean(self) -> Option<f64> {
        (self.runs > 0).then(|| self.nanos as f64 / self.runs as f64)
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.nanos += other.nanos;
        self.runs += other.runs;
    }
}

/// A loaded program.
pub struct Program(OwnedFd);

/// What the kernel tells of a program.
pub struct Info {
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Its name, cut at 15 bytes.
    pub name: String,
    /// The BTF id of what it is attached to; 0: nothing.
    pub attach_btf_id: u32,
    /// What it cost.
    pub cost: Cost,
}

impl Program {
    /// The program with this id.
    ///
    /// # Errors
    /// There is none, or no permission.
    pub fn by_id(id: u32) -> io::Result<Self> {
        call(PROG_GET_FD_BY_ID, &mut [id, 0, 0]).map(|fd| Self(owned(fd)))
    }

    /// `struct bpf_prog_info`.
    ///
    /// # Errors
    /// From `bpf(BPF_OBJ_GET_INFO_BY_FD)`.
    pub fn info(&self) -> io::Result<Info> {
        // Offsets in `struct bpf_prog_info`: part of the ABI.
        let mut info = [0u64; 29];
        let mut attribute = GetInfo {
            fd: self.0.as_raw_fd() as u32,
            length: size_of_val(&info) as u32,
            info: info.as_mut_ptr() as u64,
        };
        call(OBJ_GET_INFO_BY_FD, &mut attribute)?;
        let name: Vec<u8> = info[8..10]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .take_while(|byte| *byte != 0)
            .collect();
        Ok(Info {
            kind: low(info[0]),
            name: String::from_utf8_lossy(&name).into_owned(),
            attach_btf_id: low(info[28]),
            cost: Cost {
                nanos: info[24],
                runs: info[25],
            },
        })
    }

    /// A program that returns at once, of the type and for the target of a tracing program.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn empty(expected_attach_type: u32, attach_btf_id: u32) -> io::Result<Self> {
        // r0 = 0; exit
        let instructions: [u64; 2] = [0xb7, 0x95];
        let license = c"Dual MIT/GPL";
        let mut attribute = Load {
            prog_type: TRACING,
            insn_cnt: 2,
            insns: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            prog_name: *b"netwatch_empty\0\0",
            expected_attach_type,
            attach_btf_id,
            ..Load::default()
        };
        call(PROG_LOAD, &mut attribute).map(|fd| Self(owned(fd)))
    }

    /// Attaches a tracing program to the target that it was loaded for, until the link is dropped.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn attach(&self) -> io::Result<OwnedFd> {
        let mut attribute = Open {
            name: 0,
            prog_fd: self.0.as_raw_fd() as u32,
            reserved: 0,
        };
        call(RAW_TRACEPOINT_OPEN, &mut attribute).map(owned)
    }
}

/// The half of a word that comes first in memory.
fn low(word: u64) -> u32 {
    let bytes = word.to_ne_bytes();
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up() {
        let mut sum = Cost::default();
        let before = Cost {
            nanos: 100,
            runs: 1,
        };
        sum += Cost {
            nanos: 700,
            runs: 3,
        }
        .since(before);
        sum += Cost {
            nanos: 400,
            runs: 3,
        };
        assert_eq!(
            sum,
            Cost {
                nanos: 1_000,
                runs: 5
            }
        );
        assert_eq!(sum.mean(), Some(200.0));
        assert_eq!(Cost::default().mean(), None);
    }
}
