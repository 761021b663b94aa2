//! Raw ICMP sockets.
//!
//! Probes leave by one socket per egress and family that is bound to the egress's interface: for
//! IPv6 an interface in `IPV6_PKTINFO` alone is a preference that a better route elsewhere
//! overrides (`ip6_route_output_flags`), only a bound socket makes the lookup strict. Answers come
//! in by one unbound socket per family, because a flow's answer may return by another uplink.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use events::Timestamp;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::batch::{self, BATCH, Buffers, Datagram};
use crate::packet::{Answer, Mark};

/// A raw ICMP socket of one family.
pub(crate) fn open(v4: bool) -> io::Result<Socket> {
    let (domain, protocol) = if v4 {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A packet that is never fragmented needs no identification (RFC 6864), which the kernel would
/// draw for each.
fn never_fragment(socket: &Socket) -> io::Result<()> {
    let mode = libc::IP_PMTUDISC_DO;
    // SAFETY: the kernel reads an int, which `mode` is.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const mode).cast(),
            size_of_val(&mode) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends through one egress; receives nothing.
pub(crate) struct Sender {
    socket: Socket,
    v4: bool,
    bound: Option<u32>,
}

impl Sender {
    pub(crate) fn open(v4: bool) -> io::Result<Self> {
        let socket = open(v4)?;
        socket.attach_filter(&[statement(RETURN, 0)])?;
        if v4 {
            never_fragment(&socket)?;
        }
        Ok(Self {
            socket,
            v4,
            bound: None,
        })
    }

    /// Sends probes, in this order, all through one egress. `done` learns of each when it left, or
    /// why not.
    pub(crate) fn send(
        &mut self,
        probes: &[Datagram],
        mut done: impl FnMut(usize, Result<Timestamp, i32>),
    ) {
        let mut next = 0;
        while let Some(rest) = probes.get(next..).filter(|rest| !rest.is_empty()) {
            let begun = clock::now();
            let sent = self
                .bind(rest)
                .and_then(|()| batch::send(self.socket.as_raw_fd(), rest));
            match sent {
                Ok(count) if count > 0 => {
                    // One call sends them one after the other: each is taken to need the same time.
                    let each = clock::now().since(begun) / u32::try_from(count).unwrap_or(u32::MAX);
                    let mut at = begun;
                    for nth in next..next + count {
                        done(nth, Ok(at));
                        at = at + each;
                    }
                    next += count;
                }
                Ok(_) => return,
                Err(error) => {
                    done(next, Err(error.raw_os_error().unwrap_or(libc::EIO)));
                    next += 1;
                }
            }
        }
    }

    /// The interface may have come anew, with another index.
    fn bind(&mut self, probes: &[Datagram]) -> io::Result<()> {
        let interface = probes.first().map(|probe| probe.interface);
        if self.bound != interface {
            let index = interface.and_then(NonZeroU32::new);
            self.bound = None;
            if self.v4 {
                self.socket.bind_device_by_index_v4(index)?;
            } else {
                self.socket.bind_device_by_index_v6(index)?;
            }
            self.bound = interface;
        }
        Ok(())
    }
}

/// Receives what is said about our probes, on any interface.
pub(crate) struct Receiver {
    socket: Socket,
    v4: bool,
    buffers: Buffers,
}

impl Receiver {
    pub(crate) fn open(v4: bool, mark: &Mark) -> io::Result<Self> {
        let socket = open(v4)?;
        socket.attach_filter(&filter(v4, mark.identifier))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // Room for a second's answers while this thread stands still; less is no error.
        let wanted = 1 << 20;
        if setsockopt(&socket, sockopt::RcvBufForce, &wanted).is_err() {
            socket.set_recv_buffer_size(wanted)?;
        }
        Ok(Self {
            socket,
            v4,
            buffers: Buffers::new(),
        })
    }

    /// Takes what is waiting, a batch at most: answers (if they are to probes of ours) and when
    /// the kernel received them. Returns whether more may wait.
    pub(crate) fn receive(
        &mut self,
        mark: &Mark,
        answers: &mut Vec<(Option<Answer>, Timestamp)>,
    ) -> io::Result<bool> {
        let mut clocks = None;
        let v4 = self.v4;
        let received = self.buffers.receive(self.socket.as_raw_fd(), |received| {
            let (now, wall) = *clocks.get_or_insert_with(|| {
                let now = clock::now();
                (now, clock::wall(now).as_nanosecond())
            });
            let at = received
                .stamp
                .map_or(now, |stamp| monotonic(now, wall, stamp));
            let answer = match received.from {
                IpAddr::V4(from) if v4 => mark.read_v4(from, received.bytes),
                IpAddr::V6(from) if !v4 => mark.read_v6(from, received.bytes),
                _ => None,
            };
            answers.push((answer, at));
        })?;
        Ok(received == BATCH)
    }

    /// How many packets the kernel dropped because this socket's buffer was full.
    pub(crate) fn dropped(&self) -> u64 {
        // `SK_MEMINFO_DROPS` of `include/uapi/linux/sock_diag.h`, an array of nine u32.
        let mut info = [0u32; 9];
        let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
        // SAFETY: the kernel writes at most `length` bytes into `info`, which is that long.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let [.., drops] = info;
        if result == 0 { u64::from(drops) } else { 0 }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The kernel stamps packets with wall time: their age is taken from it, so that neither our own
/// delay nor a step of the clock long before counts. `wall` is `now` by the wall clock.
fn monotonic(now: Timestamp, wall: i128, stamp: Duration) -> Timestamp {
    let age = wall - i128::try_from(stamp.as_nanos()).unwrap_or(wall);
    match u64::try_from(age) {
        Ok(age) if age < 10_000_000_000 => now - Duration::from_nanos(age),
        _ => now,
    }
}

/// A pipe that wakes the thread.
pub(crate) fn wake_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    for fd in [&reader, &writer] {
        nix::fcntl::fcntl(
            fd,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
    }
    Ok((reader, writer))
}

// Classic BPF (`include/uapi/linux/bpf_common.h`).
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF_X: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const HEADER_LENGTH_TO_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const JUMP_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn statement(code: u32, k: u32) -> SockFilter {
    SockFilter::new(u16::try_from(code).unwrap_or(0), 0, 0, k)
}

fn jump(k: u32, equal: u8, other: u8) -> SockFilter {
    SockFilter::new(u16::try_from(JUMP_EQUAL).unwrap_or(0), equal, other, k)
}

/// Lets echo replies with our identifier pass, and errors that quote an echo request with it. An
/// IPv4 raw socket is shown the IP header, an IPv6 one is not. Errors are taken to quote a header
/// without options, as ours are sent.
fn filter(v4: bool, identifier: u16) -> Vec<SockFilter> {
    let id = u32::from(identifier);
    let (byte, half, reply, errors, protocol_at, protocol, quoted_id) = if v4 {
        (LOAD_BYTE_X, LOAD_HALF_X, 0, [3, 11], 17, 1, 32)
    } else {
        (LOAD_BYTE, LOAD_HALF, 129, [1, 3], 14, 58, 52)
    };
    vec![
        statement(HEADER_LENGTH_TO_X, 0),
        statement(byte, 0),
        jump(reply, 4, 0),
        jump(errors[0], 1, 0),
        jump(errors[1], 0, 7),
        statement(byte, protocol_at),
        jump(protocol, 2, 5),
        statement(half, 4),
        jump(id, 2, 3),
        statement(half, quoted_id),
        jump(id, 0, 1),
        statement(RETURN, u32::MAX),
        statement(RETURN, 0),
    ]
}
