//! Many datagrams with one system call: `sendmmsg(2)` and `recvmmsg(2)` with the control data that
//! probes need.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::time::Duration;

use crate::packet::LEN;

/// Datagrams per system call.
pub(crate) const BATCH: usize = 32;
/// Of what comes in so much is kept: an outer IPv4 header with all options, an ICMP header, a quoted
/// IP header, and a probe.
const KEPT: usize = 60 + 8 + 40 + LEN + 28;

/// A probe to be sent: by which interface, from and to whom.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) interface: u32,
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) packet: [u8; LEN],
}

/// One control message (`cmsg(3)`): the header and, aligned as `CMSG_DATA` wants it, what it says.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control<T> {
    header: libc::cmsghdr,
    data: T,
}

impl<T> Control<T> {
    fn new(level: i32, kind: i32, data: T) -> Self {
        // SAFETY: a header is plain numbers.
        let mut header: libc::cmsghdr = unsafe { zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        Self { header, data }
    }
}

enum Envelope {
    V4(libc::sockaddr_in, Control<libc::in_pktinfo>),
    V6(libc::sockaddr_in6, Control<libc::in6_pktinfo>),
}

impl Envelope {
    /// Source and target must be of the same family, else the kernel refuses.
    fn new(datagram: &Datagram) -> Self {
        let interface = datagram.interface;
        match datagram.target {
            IpAddr::V4(target) => {
                let source = match datagram.source {
                    IpAddr::V4(source) => source,
                    IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                };
                // SAFETY: an address is plain numbers.
                let mut to: libc::sockaddr_in = unsafe { zeroed() };
                to.sin_family = libc::AF_INET as libc::sa_family_t;
                to.sin_addr = in_addr(target);
                let info = libc::in_pktinfo {
                    ipi_ifindex: i32::try_from(interface).unwrap_or(0),
                    ipi_spec_dst: in_addr(source),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                Self::V4(to, Control::new(libc::IPPROTO_IP, libc::IP_PKTINFO, info))
            }
            IpAddr::V6(target) => {
                let source = match datagram.source {
                    IpAddr::V6(source) => source,
                    IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
                };
                // SAFETY: as above.
                let mut to: libc::sockaddr_in6 = unsafe { zeroed() };
                to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                to.sin6_addr.s6_addr = target.octets();
                if target.is_unicast_link_local() {
                    to.sin6_scope_id = interface;
                }
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: source.octets(),
                    },
                    ipi6_ifindex: interface as _,
                };
                let control = Control::new(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                Self::V6(to, control)
            }
        }
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(address.octets()),
    }
}

fn header() -> libc::mmsghdr {
    // SAFETY: lengths and pointers, of which null is a valid one.
    unsafe { zeroed() }
}

/// Sends the first [`BATCH`] of these. Returns how many left; an error is the first one's.
pub(crate) fn send(fd: RawFd, datagrams: &[Datagram]) -> io::Result<usize> {
    let datagrams = datagrams.get(..BATCH).unwrap_or(datagrams);
    let mut envelopes: Vec<(Envelope, libc::iovec)> = datagrams
        .iter()
        .map(|datagram| {
            let data = libc::iovec {
                iov_base: datagram.packet.as_ptr().cast_mut().cast(),
                iov_len: LEN,
            };
            (Envelope::new(datagram), data)
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = envelopes
        .iter_mut()
        .map(|(envelope, data)| {
            let mut header = header();
            let message = &mut header.msg_hdr;
            message.msg_iov = data;
            message.msg_iovlen = 1;
            match envelope {
                Envelope::V4(to, control) => {
                    message.msg_name = (&raw mut *to).cast();
                    message.msg_namelen = size_of_val(to) as _;
                    message.msg_control = (&raw mut *control).cast();
                    message.msg_controllen = size_of_val(control) as _;
                }
                Envelope::V6(to, control) => {
                    message.msg_name = (&raw mut *to).cast();
                    message.msg_namelen = size_of_val(to) as _;
                    message.msg_control = (&raw mut *control).cast();
                    message.msg_controllen = size_of_val(control) as _;
                }
            }
            header
        })
        .collect();
    // SAFETY: every pointer is to memory in `envelopes` or `datagrams`, which outlive the call and
    // are not moved before it; the kernel only reads it.
    let sent = unsafe {
        libc::sendmmsg(
            fd,
            headers.as_mut_ptr(),
            headers.len() as _,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Where received datagrams are put.
pub(crate) struct Buffers {
    slots: Vec<Slot>,
}

struct Slot {
    data: [u8; KEPT],
    /// An IPv4 sender's address is shorter.
    from: libc::sockaddr_in6,
    control: Control<libc::timespec>,
}

/// A datagram: who sent it, its beginning, and when the kernel received it by the wall clock.
pub(crate) struct Received<'a> {
    pub(crate) from: IpAddr,
    pub(crate) bytes: &'a [u8],
    pub(crate) stamp: Option<Duration>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        let slot = || Slot {
            data: [0; KEPT],
            // SAFETY: addresses and times are plain numbers.
            from: unsafe { zeroed() },
            control: Control::new(0, 0, unsafe { zeroed() }),
        };
        Self {
            slots: std::iter::repeat_with(slot).take(BATCH).collect(),
        }
    }

    /// Takes what is waiting, [`BATCH`] datagrams at most. Returns how many these were.
    pub(crate) fn receive(
        &mut self,
        fd: RawFd,
        mut take: impl FnMut(Received<'_>),
    ) -> io::Result<usize> {
        let mut data: [libc::iovec; BATCH] = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: KEPT,
        }; BATCH];
        let mut headers = [header(); BATCH];
        for ((slot, data), header) in self.slots.iter_mut().zip(&mut data).zip(&mut headers) {
            data.iov_base = slot.data.as_mut_ptr().cast();
            let message = &mut header.msg_hdr;
            message.msg_iov = data;
            message.msg_iovlen = 1;
            message.msg_name = (&raw mut slot.from).cast();
            message.msg_namelen = size_of_val(&slot.from) as _;
            message.msg_control = (&raw mut slot.control).cast();
            message.msg_controllen = size_of_val(&slot.control) as _;
        }
        // SAFETY: every pointer is to memory in `self.slots` or `data`, as long as it says, which
        // nothing else touches during the call.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                BATCH as _,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(0),
                _ => Err(error),
            };
        };
        for (slot, header) in self.slots.iter().zip(&headers).take(received) {
            let length = usize::try_from(header.msg_len).unwrap_or(KEPT).min(KEPT);
            if let (Some(from), Some(bytes)) = (address(&slot.from), slot.data.get(..length)) {
                let stamp = stamp(&slot.control, header.msg_hdr.msg_controllen);
                take(Received { from, bytes, stamp });
            }
        }
        Ok(received)
    }
}

fn address(from: &libc::sockaddr_in6) -> Option<IpAddr> {
    match i32::from(from.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a `sockaddr_in` there, which is shorter and less aligned.
            let from = unsafe { (&raw const *from).cast::<libc::sockaddr_in>().read() };
            Some(Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => Some(Ipv6Addr::from(from.sin6_addr.s6_addr).into()),
        _ => None,
    }
}

fn stamp(control: &Control<libc::timespec>, length: usize) -> Option<Duration> {
    let is_stamp = length >= size_of::<Control<libc::timespec>>()
        && control.header.cmsg_level == libc::SOL_SOCKET
        && control.header.cmsg_type == libc::SCM_TIMESTAMPNS;
    let seconds = u64::try_from(control.data.tv_sec).ok()?;
    let nanos = u32::try_from(control.data.tv_nsec).ok()?;
    is_stamp.then(|| Duration::new(seconds, nanos))
}
