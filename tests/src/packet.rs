//! As much of an IP packet as the forwarder needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a packet comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Ports, sequence and acknowledgement number of a TCP segment.
    pub tcp: Option<Tcp>,
}

/// The start of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
}

const IPPROTO_TCP: u8 = 6;

impl Packet {
    /// Reads the headers; `None` for anything but whole IPv4 and IPv6 headers.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) =
            match bytes.first()? >> 4 {
                4 => {
                    let header = usize::from(bytes[0] & 0xf) * 4;
                    let address = |at: usize| {
                        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
                        Some(Ipv4Addr::from(octets))
                    };
                    let fragment = u16::from_be_bytes([*bytes.get(6)?, *bytes.get(7)?]) & 0x1fff;
                    let protocol = if fragment == 0 { *bytes.get(9)? } else { 0 };
                    (
                        address(12)?.into(),
                        address(16)?.into(),
                        protocol,
                        bytes.get(header..)?,
                    )
                }
                6 => {
                    let address = |at: usize| {
                        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
                        Some(Ipv6Addr::from(octets))
                    };
                    (
                        address(8)?.into(),
                        address(24)?.into(),
                        *bytes.get(6)?,
                        bytes.get(40..)?,
                    )
                }
                _ => return None,
            };
        let tcp = if protocol == IPPROTO_TCP && rest.len() >= 12 {
            Some(Tcp {
                source: u16::from_be_bytes([rest[0], rest[1]]),
                destination: u16::from_be_bytes([rest[2], rest[3]]),
                sequence: u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]),
                acknowledgement: u32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]),
            })
        } else {
            None
        };
        Some(Self {
            source,
            destination,
            tcp,
        })
    }

    /// It belongs to the workload: TCP with this port at either end.
    #[must_use]
    pub fn is_workload(&self, port: u16) -> bool {
        self.tcp
            .is_some_and(|tcp| tcp.source == port || tcp.destination == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_families_and_refuses_rubbish() {
        let mut v4 = vec![
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        v4.extend([
            0x68, 0x20, 0x01, 0xbb, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0, 0, 0, 0, 0, 0, 0,
        ]);
        let packet = Packet::parse(&v4).expect("a packet");
        assert_eq!(packet.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(packet.destination, IpAddr::from([10, 0, 0, 2]));
        let tcp = packet.tcp.expect("tcp");
        assert_eq!((tcp.source, tcp.destination), (26_656, 443));
        assert_eq!((tcp.sequence, tcp.acknowledgement), (7, 9));
        assert!(packet.is_workload(26_656) && !packet.is_workload(80));

        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend(Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 1).octets());
        let packet = Packet::parse(&v6).expect("a packet");
        assert_eq!(packet.source, IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(packet.tcp, None);

        for length in 0..20 {
            assert_eq!(Packet::parse(&v4[..length]), None);
        }
        assert_eq!(Packet::parse(&[0x10; 60]), None);
    }
}
