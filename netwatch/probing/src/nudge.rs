//! Having backed-off connections retransmit at once (RFC 6069, TCP-LCD).
//!
//! A host unreachable (ICMPv6: no route) that quotes the oldest unacknowledged byte of a connection
//! in retransmission timeout takes back one doubling of its timer (`tcp_ld_RTO_revert`,
//! `net/ipv4/tcp_ipv4.c`); where the timer would have fired by then, the kernel retransmits at once.
//! We say so to ourselves, over loopback: nothing leaves the host. To an application that asked for
//! it by `IP_RECVERR` the message is an error; to others it is a soft one, told only with a timeout.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::packet::checksum;
use crate::socket;

/// Doublings taken back at most. Linux stops doubling at 2 minutes (`TCP_RTO_MAX`), some nine after 200 ms.
const DOUBLINGS: u8 = 10;

/// A connection whose retransmission timer is backed off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// `SND.UNA`. The kernel ignores the message where it is another by now.
    pub unacknowledged: u32,
    /// How often the timer has been doubled.
    pub doublings: u8,
}

/// Takes all doublings back. Returns for how many connections the messages were sent.
///
/// # Errors
/// The raw sockets cannot be opened, or the first message that the kernel refuses.
pub fn nudge(stalled: &[Stalled]) -> io::Result<usize> {
    let mut nudged = 0;
    for v4 in [true, false] {
        let mut family = stalled
            .iter()
            .filter(|one| one.local.is_ipv4() == v4)
            .peekable();
        if family.peek().is_none() {
            continue;
        }
        let socket = socket::open(v4)?;
        for one in family {
            let Some(message) = unreachable(one) else {
                continue;
            };
            let to = SocketAddr::new(one.local.ip(), 0).into();
            for _ in 0..one.doublings.min(DOUBLINGS) {
                socket.send_to(&message, &to)?;
            }
            nudged += 1;
        }
    }
    Ok(nudged)
}

/// The message (RFC 792, RFC 4443): 8 bytes, the IP header that the segment had, and the first 20 of
/// the segment. `None` where the ends are of different families.
fn unreachable(stalled: &Stalled) -> Option<Vec<u8>> {
    const TCP: u8 = 6;
    const HOPS: u8 = 255;
    const SEGMENT: u8 = 20;
    let mut message = match (stalled.local.ip(), stalled.remote.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 20 + SEGMENT, 0, 0, 0x40, 0, HOPS, TCP, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header).to_be_bytes();
            header.splice(10..12, sum);
            // Destination unreachable, host unreachable.
            [vec![3, 1, 0, 0, 0, 0, 0, 0], header].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, SEGMENT, TCP, HOPS];
            header.extend(from.octets());
            header.extend(to.octets());
            // Destination unreachable, no route. The kernel fills in the checksum.
            [vec![1, 0, 0, 0, 0, 0, 0, 0], header].concat()
        }
        _ => return None,
    };
    message.extend(stalled.local.port().to_be_bytes());
    message.extend(stalled.remote.port().to_be_bytes());
    message.extend(stalled.unacknowledged.to_be_bytes());
    // Acknowledgement, header length and ACK, window, checksum, urgent pointer.
    message.extend([0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    if stalled.local.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message.splice(2..4, sum);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled(local: &str, remote: &str) -> Stalled {
        Stalled {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            unacknowledged: 0x0102_0304,
            doublings: 1,
        }
    }

    #[test]
    fn quotes_the_oldest_unacknowledged_byte() {
        for (local, remote, quote) in [
            ("192.0.2.1:2000", "198.51.100.1:3000", 28),
            ("[2001:db8::1]:2000", "[2001:db8::2]:3000", 48),
        ] {
            let message = unreachable(&stalled(local, remote)).unwrap();
            let segment = &message[quote..];
            assert_eq!(segment.len(), 20, "{local}");
            assert_eq!(segment[..8], [7, 0xd0, 0x0b, 0xb8, 1, 2, 3, 4], "{local}");
        }
        let message = unreachable(&stalled("192.0.2.1:1", "192.0.2.2:1")).unwrap();
        assert_eq!(checksum(&message), 0, "the message's");
        assert_eq!(checksum(&message[8..28]), 0, "the quoted header's");
        assert_eq!(
            unreachable(&stalled("192.0.2.1:1", "[2001:db8::2]:1")),
            None
        );
    }
}
