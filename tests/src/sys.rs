//! The few system calls that the standard library does not offer.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of everything that the lab reports.
#[must_use]
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread in nanoseconds.
#[must_use]
pub fn thread_cpu() -> u64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What `CLOCK_REALTIME` is ahead of `CLOCK_MONOTONIC` by, in nanoseconds.
#[must_use]
pub fn wall_offset() -> u64 {
    clock(libc::CLOCK_REALTIME).saturating_sub(now())
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the duration of the call.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Turns a C result into a Rust one.
///
/// # Errors
/// `errno` where `result` is negative.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

extern "C" fn on_signal(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// From now on SIGINT, SIGTERM and SIGHUP only set a flag, so that what was made gets removed.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

/// A signal asked for the end.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Sleeps, but not beyond a signal.
///
/// # Errors
/// When interrupted.
pub fn sleep(duration: Duration) -> anyhow::Result<()> {
    let end = now() + duration.as_nanos() as u64;
    loop {
        anyhow::ensure!(!interrupted(), "interrupted");
        let left = end.saturating_sub(now());
        if left == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_nanos(left.min(20_000_000)));
    }
}

/// Lets this thread's timers fire within a microsecond of their time.
pub fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes an integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000 as libc::c_ulong) };
}

/// Opens a TUN device in the calling thread's network namespace, non-blocking, without packet
/// information.
///
/// # Errors
/// From `open` or `TUNSETIFF`; the device module must be available.
pub fn open_tun(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: the path is a valid C string.
    let fd = check(unsafe {
        libc::open(
            c"/dev/net/tun".as_ptr(),
            libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: `fd` was just opened and is owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(fd)
}

/// Clears `IFF_UP` of an interface in the calling thread's namespace.
///
/// # Errors
/// From `SIOCGIFFLAGS` or `SIOCSIFFLAGS`.
pub fn link_down(name: &str) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .zip(name.bytes().take(libc::IFNAMSIZ - 1))
    {
        *to = from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: both requests take one ifreq; the flags are initialised by the first.
    unsafe {
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags &= !(libc::IFF_UP as libc::c_short);
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw mut request))?;
    }
    Ok(())
}

/// An epoll instance with nanosecond timeouts.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// A new instance.
    ///
    /// # Errors
    /// From `epoll_create1`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the returned descriptor is owned by nobody else.
        unsafe {
            let fd = check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Watches `fd` for `events`; `token` comes back with them.
    ///
    /// # Errors
    /// From `epoll_ctl`.
    pub fn add(&self, fd: RawFd, events: libc::c_int, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: `event` is valid for the duration of the call.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        })
        .map(drop)
    }

    /// Waits for at most `timeout` nanoseconds; appends the tokens that are ready.
    ///
    /// # Errors
    /// From `epoll_pwait2` (Linux 5.11); an interrupting signal is not an error.
    pub fn wait(&self, timeout: u64, ready: &mut Vec<(u64, u32)>) -> io::Result<()> {
        ready.clear();
        let timeout = libc::timespec {
            tv_sec: (timeout / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout % 1_000_000_000) as libc::c_long,
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the buffer holds 64 events, the timeout is valid, no signal mask is passed.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        ready.extend(
            events
                .iter()
                .take(count as usize)
                .map(|event| (event.u64, event.events)),
        );
        Ok(())
    }
}

/// Reads once; `None` where nothing is there.
///
/// # Errors
/// From `read`, except that it would block.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer is valid for its length.
    let count = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    if count >= 0 {
        return Ok(Some(count as usize));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        _ => Err(error),
    }
}

/// Writes once.
///
/// # Errors
/// From `write`.
pub fn write(fd: RawFd, buffer: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    let count = unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) };
    if count < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(count as usize)
    }
}

/// Bytes that the peer newly acknowledged on a connection since it was opened
/// (`tcpi_bytes_acked`, RFC 4898 `tcpEStatsAppHCThruOctetsAcked`).
///
/// # Errors
/// From `getsockopt`.
pub fn bytes_acked(fd: RawFd) -> io::Result<u64> {
    // Offset of `tcpi_bytes_acked` in `struct tcp_info` (include/uapi/linux/tcp.h): part of the ABI.
    const OFFSET: usize = 120;
    let mut info = [0u8; 128];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is valid for `length` bytes.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let mut value = [0u8; 8];
    value.copy_from_slice(&info[OFFSET..OFFSET + 8]);
    Ok(u64::from_ne_bytes(value))
}

/// Ticks that this machine's CPUs spent in total, and stolen by the hypervisor (`/proc/stat`).
#[must_use]
pub fn cpu_ticks() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    (
        fields.iter().take(8).sum(),
        fields.get(7).copied().unwrap_or(0),
    )
}
