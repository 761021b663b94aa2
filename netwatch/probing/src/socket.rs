//! Raw ICMP sockets.
//!
//! Probes leave by one socket per egress and family that is bound to the egress's interface: for
//! IPv6 an interface in `IPV6_PKTINFO` alone is a preference that a better route elsewhere
//! overrides (`ip6_route_output_flags`), only a bound socket makes the lookup strict. Answers come
//! in by one unbound socket per family, because a flow's answer may return by another uplink.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use events::Timestamp;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::packet::{Answer, Mark};

/// A raw ICMP socket of one family.
fn open(v4: bool) -> io::Result<Socket> {
    let (domain, protocol) = if v4 {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
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
        Ok(Self {
            socket,
            v4,
            bound: None,
        })
    }

    /// Sends one probe from `source` through the interface with this index.
    pub(crate) fn send(
        &mut self,
        interface: u32,
        source: IpAddr,
        target: IpAddr,
        packet: &[u8],
    ) -> io::Result<()> {
        if self.bound != Some(interface) {
            let index = NonZeroU32::new(interface);
            self.bound = None;
            if self.v4 {
                self.socket.bind_device_by_index_v4(index)?;
            } else {
                self.socket.bind_device_by_index_v6(index)?;
            }
            self.bound = Some(interface);
        }
        let payload = [IoSlice::new(packet)];
        let fd = self.socket.as_raw_fd();
        let scope = match target {
            IpAddr::V6(a) if a.is_unicast_link_local() => interface,
            _ => 0,
        };
        let to = SockaddrStorage::from(match target {
            IpAddr::V4(a) => SocketAddr::from((a, 0)),
            IpAddr::V6(a) => SocketAddr::V6(SocketAddrV6::new(a, 0, 0, scope)),
        });
        match source {
            IpAddr::V4(a) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: i32::try_from(interface).unwrap_or(0),
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(a.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &payload, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
            }
            IpAddr::V6(a) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: a.octets(),
                    },
                    ipi6_ifindex: interface,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &payload, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
            }
        }
        Ok(())
    }
}

/// Receives what is said about our probes, on any interface.
pub(crate) struct Receiver {
    socket: Socket,
    v4: bool,
    buffer: Vec<u8>,
    control: Vec<u8>,
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
            buffer: vec![0; 2048],
            control: nix::cmsg_space!(nix::sys::time::TimeSpec),
        })
    }

    /// What is waiting: an answer (if it is one to a probe of ours) and when the kernel received
    /// it. `None`: nothing is waiting.
    pub(crate) fn receive(
        &mut self,
        mark: &Mark,
    ) -> io::Result<Option<(Option<Answer>, Timestamp)>> {
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let message = match recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut self.control),
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut at = clock::now();
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmTimestampns(stamp) = control {
                at = monotonic(at, Duration::from(stamp));
            }
        }
        let from = message.address;
        let length = message.bytes;
        let bytes = self.buffer.get(..length).unwrap_or_default();
        let answer = from.and_then(|from| {
            if self.v4 {
                mark.read_v4(from.as_sockaddr_in()?.ip(), bytes)
            } else {
                mark.read_v6(from.as_sockaddr_in6()?.ip(), bytes)
            }
        });
        Ok(Some((answer, at)))
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
/// delay nor a step of the clock long before counts.
fn monotonic(now: Timestamp, stamp: Duration) -> Timestamp {
    let wall = clock::wall(now).as_nanosecond();
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
