//! What a link is attached to, by the kernel's own word (`bpf_link_info`).

use std::ffi::CStr;
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::RawFd;

use crate::btf::Btf;

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const RAW_TRACEPOINT: u32 = 1;
const TRACING: u32 = 2;
const PERF_EVENT: u32 = 7;
/// Of `enum bpf_perf_event_type`.
const KPROBE: u32 = 3;
const EVENT: u32 = 6;
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
/// The clock's own type on newer kernels: the first number that `perf_event_init` gives away.
const CPU_CLOCK: u32 = 6;
const FENTRY: u32 = 24;
const FEXIT: u32 = 25;

/// The beginning of the kernel's `struct bpf_link_info`, with the longest of the variants read.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Info {
    ty: u32,
    id: u32,
    program: u32,
    _pad: u32,
    variant: [u64; 6],
}

#[repr(C)]
struct Request {
    fd: u32,
    length: u32,
    info: u64,
}

/// What one link holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The program's id.
    pub program: u32,
    /// The hook, such as `tp_btf/tcp_probe`; `None` where the kernel does not tell it.
    pub hook: Option<String>,
}

/// Asks the kernel about a link that this process holds. A raw tracepoint's link is called tp_btf, because only typed programs are
/// attached here.
pub fn told(id: u32, btf: &Btf) -> io::Result<Told> {
    let fd = find(id)?;
    let mut name = [0u8; 128];
    let mut info = Info::default();
    get(fd, &mut info)?;
    let hook = match info.ty {
        RAW_TRACEPOINT => {
            let mut info = Info::default();
            info.variant[0] = name.as_mut_ptr() as u64;
            info.variant[1] = name.len() as u64;
            get(fd, &mut info)?;
            Some(format!("tp_btf/{}", text(&name)))
        }
        TRACING => {
            // attach_type and target_obj_id, then target_btf_id.
            let kind = info.variant[0] as u32;
            // Told since Linux 5.13.
            btf.name(info.variant[1] as u32).map(|target| match kind {
                FENTRY => format!("fentry/{target}"),
                FEXIT => format!("fexit/{target}"),
                other => format!("tracing {other}/{target}"),
            })
        }
        PERF_EVENT => {
            // The type, then of a kprobe func_name and name_len, of an event config and type; told
            // since Linux 6.6.
            let mut info = Info::default();
            info.variant[1] = name.as_mut_ptr() as u64;
            info.variant[2] = name.len() as u64;
            let told = get(fd, &mut info).is_ok();
            match info.variant[0] as u32 {
                KPROBE if told && !text(&name).is_empty() => {
                    Some(format!("kprobe/{}", text(&name)))
                }
                EVENT if told => Some(match (info.variant[2] as u32, info.variant[1]) {
                    (PERF_TYPE_SOFTWARE | CPU_CLOCK, PERF_COUNT_SW_CPU_CLOCK) => {
                        "perf_event/cpu-clock".to_owned()
                    }
                    (ty, config) => format!("perf_event/type {ty} config {config}"),
                }),
                _ => None,
            }
        }
        other => Some(format!("link type {other}")),
    };
    Ok(Told {
        program: info.program,
        hook,
    })
}

/// The descriptor of a link. (`BPF_LINK_GET_FD_BY_ID` would need CAP_SYS_ADMIN.)
fn find(id: u32) -> io::Result<RawFd> {
    let line = format!("link_id:\t{id}\n");
    for entry in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|fd| fd.parse().ok()) else {
            continue;
        };
        if fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&line)) {
            return Ok(fd);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no descriptor of link {id}"),
    ))
}

fn text(name: &[u8]) -> String {
    CStr::from_bytes_until_nul(name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn get(fd: RawFd, info: &mut Info) -> io::Result<()> {
    let mut request = Request {
        fd: fd.cast_unsigned(),
        length: size_of::<Info>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the request describes `info`, which outlives the call, and any buffer that it names.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut request,
            size_of::<Request>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
