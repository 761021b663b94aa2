//! The kernel's own list of connections (sock_diag, `include/uapi/linux/inet_diag.h`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use events::{Flow, TcpSample, TcpState};

use crate::convert;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// Every state but TIME_WAIT, CLOSE, LISTEN and the handshakes that peers begin.
const STATES: u32 = (1 << 1) | (1 << 2) | (1 << 4) | (1 << 5) | (1 << 8) | (1 << 9) | (1 << 11);

const LISTEN: u32 = 1 << 10;

/// What the kernel says about one connection's acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// `tcpi_bytes_acked`.
    pub bytes: u64,
    /// How long ago the last acknowledgement came in, to the millisecond.
    pub ago: Duration,
    /// The peer's window is closed.
    pub zero_window: bool,
}

/// A connection that the kernel lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its ends.
    pub flow: Flow,
    /// Its state.
    pub state: TcpState,
    /// Its inode; 0: no process has it open.
    pub inode: u32,
    /// Round-trip times from `tcp_info`, where it was asked for; times of events are not known.
    pub sample: Option<TcpSample>,
    /// How often the retransmission timer has been doubled, and `tcpi_bytes_acked`; the same.
    pub backoff: Option<(u8, u64)>,
}

/// All connections, of both families.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the kernel's order.
    pub connections: Vec<Listed>,
    /// Changes while it was made may have left out connections.
    pub interrupted: bool,
}

/// A socket for asking, in the network namespace of the thread that opened it.
pub struct Diag {
    socket: OwnedFd,
    sequence: u32,
}

impl Diag {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        // SAFETY: no pointers are passed; the result is checked and owned.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_SOCK_DIAG,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let limit = nix::sys::time::TimeVal::new(2, 0);
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Lists all connections; with `tcp_info` where round-trip times are wanted.
    pub fn list(&mut self, with_info: bool) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family as u8, with_info, STATES, &mut listing)?;
        }
        Ok(listing)
    }

    /// Lists the sockets that listen.
    pub fn listeners(&mut self) -> io::Result<Vec<Listed>> {
        let mut listing = Listing::default();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family as u8, false, LISTEN, &mut listing)?;
        }
        Ok(listing.connections)
    }

    /// Asks about one connection; `None` where it is gone. `cookie` makes sure that it is the same,
    /// where it is known.
    pub fn acknowledged(
        &mut self,
        flow: &Flow,
        cookie: Option<u64>,
    ) -> io::Result<Option<Acknowledged>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0u8; HEADER + REQUEST];
        put(&mut request, 0, &((HEADER + REQUEST) as u32).to_ne_bytes());
        put(&mut request, 4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        put(&mut request, 6, &(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        put(&mut request, 8, &self.sequence.to_ne_bytes());
        let family = match flow.local {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        let extensions = 1 << (INET_DIAG_INFO - 1);
        put(
            &mut request,
            HEADER,
            &[family as u8, libc::IPPROTO_TCP as u8, extensions, 0],
        );
        // struct inet_diag_sockid: ports, addresses, interface, cookie.
        let id = HEADER + 8;
        put(&mut request, id, &flow.local.port().to_be_bytes());
        put(&mut request, id + 2, &flow.remote.port().to_be_bytes());
        for (at, end) in [(id + 4, flow.local), (id + 20, flow.remote)] {
            match end.ip() {
                IpAddr::V4(address) => put(&mut request, at, &address.octets()),
                IpAddr::V6(address) => put(&mut request, at, &address.octets()),
            }
        }
        put(
            &mut request,
            id + 40,
            &cookie.unwrap_or(u64::MAX).to_ne_bytes(),
        );
        send(&self.socket, &request)?;

        let mut buffer = [0u8; 4096];
        loop {
            let length = receive(&self.socket, &mut buffer)?;
            let data = buffer.get(..length).unwrap_or_default();
            let number = u32::from_ne_bytes(array(data, 8).ok_or(io::ErrorKind::InvalidData)?);
            if number != self.sequence {
                continue;
            }
            let kind = u16::from_ne_bytes(array(data, 4).ok_or(io::ErrorKind::InvalidData)?);
            let body = data.get(HEADER..).unwrap_or_default();
            if i32::from(kind) == libc::NLMSG_ERROR {
                let errno = i32::from_ne_bytes(array(body, 0).ok_or(io::ErrorKind::InvalidData)?);
                return match errno.saturating_neg() {
                    libc::ENOENT | libc::ESTALE => Ok(None),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
            return Ok(body.get(MESSAGE..).and_then(info).and_then(acknowledged));
        }
    }

    fn dump(
        &mut self,
        family: u8,
        with_info: bool,
        states: u32,
        listing: &mut Listing,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0u8; HEADER + REQUEST];
        put(&mut request, 0, &((HEADER + REQUEST) as u32).to_ne_bytes());
        put(&mut request, 4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        put(&mut request, 6, &flags.to_ne_bytes());
        put(&mut request, 8, &self.sequence.to_ne_bytes());
        let extensions = if with_info {
            1 << (INET_DIAG_INFO - 1)
        } else {
            0
        };
        put(
            &mut request,
            HEADER,
            &[family, libc::IPPROTO_TCP as u8, extensions, 0],
        );
        put(&mut request, HEADER + 4, &states.to_ne_bytes());
        send(&self.socket, &request)?;

        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            let length = receive(&self.socket, &mut buffer)?;
            let Some(data) = buffer.get(..length) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if parse(data, self.sequence, listing)? {
                return Ok(());
            }
        }
    }
}

/// Reads one datagram. Returns whether it was the last.
fn parse(mut data: &[u8], sequence: u32, listing: &mut Listing) -> io::Result<bool> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "broken netlink message");
    while data.len() >= HEADER {
        let length = u32::from_ne_bytes(array(data, 0).ok_or_else(broken)?) as usize;
        let kind = u16::from_ne_bytes(array(data, 4).ok_or_else(broken)?);
        let flags = u16::from_ne_bytes(array(data, 6).ok_or_else(broken)?);
        let number = u32::from_ne_bytes(array(data, 8).ok_or_else(broken)?);
        let body = data.get(HEADER..length).ok_or_else(broken)?;
        if number == sequence {
            if i32::from(flags) & libc::NLM_F_DUMP_INTR != 0 {
                listing.interrupted = true;
            }
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(true),
                libc::NLMSG_ERROR => {
                    let errno = i32::from_ne_bytes(array(body, 0).ok_or_else(broken)?);
                    return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
                }
                _ => listing.connections.extend(listed(body)),
            }
        }
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads an `inet_diag_msg` and its attributes.
fn listed(body: &[u8]) -> Option<Listed> {
    let family = i32::from(*body.first()?);
    let state = TcpState::from_kernel(*body.get(1)?)?;
    let address = |at: usize| -> Option<[u8; 16]> {
        if family == libc::AF_INET {
            let four: [u8; 4] = array(body, at)?;
            Some(std::net::Ipv4Addr::from(four).to_ipv6_mapped().octets())
        } else {
            array(body, at)
        }
    };
    let low = u32::from_ne_bytes(array(body, 44)?);
    let high = u32::from_ne_bytes(array(body, 48)?);
    Some(Listed {
        cookie: u64::from(low) | (u64::from(high) << 32),
        flow: convert::flow(
            address(8)?,
            u16::from_be_bytes(array(body, 4)?),
            address(24)?,
            u16::from_be_bytes(array(body, 6)?),
        ),
        state,
        inode: u32::from_ne_bytes(array(body, 68)?),
        sample: body.get(MESSAGE..).and_then(info).and_then(sample),
        backoff: body.get(MESSAGE..).and_then(info).and_then(backoff),
    })
}

/// The `tcp_info` among the attributes.
fn info(mut attributes: &[u8]) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(array(attributes, 0)?));
        let kind = u16::from_ne_bytes(array(attributes, 2)?);
        let payload = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Acknowledgements from `struct tcp_info`.
fn acknowledged(info: &[u8]) -> Option<Acknowledged> {
    let millis = u32::from_ne_bytes(array(info, 56)?);
    Some(Acknowledged {
        bytes: u64::from_ne_bytes(array(info, 120)?),
        ago: Duration::from_millis(u64::from(millis)),
        // `tcpi_snd_wnd` is there since Linux 5.4.
        zero_window: array(info, 228).is_some_and(|window| u32::from_ne_bytes(window) == 0),
    })
}

/// Round-trip times from `struct tcp_info`.
fn sample(info: &[u8]) -> Option<TcpSample> {
    let micros = |at: usize| -> Option<Duration> {
        Some(Duration::from_micros(u64::from(u32::from_ne_bytes(array(
            info, at,
        )?))))
    };
    Some(TcpSample {
        outstanding: None,
        acked_at: None,
        sent_at: None,
        received_at: None,
        srtt: micros(68)?,
        mdev: micros(72)?,
        min_rtt: micros(148)?,
        last_rtt: None,
        zero_window: false,
    })
}

/// `tcpi_backoff` and `tcpi_bytes_acked` from `struct tcp_info`.
fn backoff(info: &[u8]) -> Option<(u8, u64)> {
    Some((*info.get(4)?, u64::from_ne_bytes(array(info, 120)?)))
}

fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn send(socket: &OwnedFd, data: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `data`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and the length describe `buffer`.
        let received = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        match usize::try_from(received) {
            Ok(length) => return Ok(length),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lists_a_connection_of_each_family() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let listing = Diag::open().unwrap().list(true).unwrap();
            let flow = Flow {
                local: stream.local_addr().unwrap(),
                remote: stream.peer_addr().unwrap(),
            };
            let found = listing
                .connections
                .iter()
                .find(|listed| listed.flow == flow)
                .unwrap();
            assert_eq!(found.state, TcpState::Established);
            assert_ne!(found.cookie, 0);
            assert_ne!(found.inode, 0);
            assert!(found.sample.unwrap().srtt > Duration::ZERO);
        }
    }

    #[test]
    fn tells_what_is_acknowledged_on_one_connection() {
        use std::io::{Read, Write};
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut remote = listener.accept().unwrap().0;
            let flow = Flow {
                local: stream.local_addr().unwrap(),
                remote: stream.peer_addr().unwrap(),
            };
            let mut diag = Diag::open().unwrap();
            let before = diag.acknowledged(&flow, None).unwrap().unwrap();
            stream.write_all(&[7; 321]).unwrap();
            remote.read_exact(&mut [0; 321]).unwrap();
            remote.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            let after = diag.acknowledged(&flow, None).unwrap().unwrap();
            assert_eq!(after.bytes - before.bytes, 321);
            assert!(!after.zero_window);
            // Another cookie: another connection.
            assert_eq!(diag.acknowledged(&flow, Some(1 << 50)).unwrap(), None);
            let listeners = diag.listeners().unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut ports = listeners.iter().map(|one| one.flow.local.port());
            assert!(ports.any(|one| one == port));
            drop((stream, remote));
        }
    }

    #[test]
    fn broken_messages_are_refused() {
        let mut listing = Listing::default();
        let mut message = vec![0u8; HEADER];
        message[0] = 200;
        assert!(parse(&message, 0, &mut listing).is_err());
        message[0] = 4;
        assert!(parse(&message, 0, &mut listing).is_err());
        assert!(listed(&[2, 1, 0]).is_none());
        assert!(info(&[3, 0, 2, 0]).is_none());
    }
}
