//! ICMP and ICMPv6 messages (RFC 792, RFC 4443): our echo requests, and what is said about them.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a probe: 8 of header, 8 of number, 8 of tag.
pub(crate) const LEN: usize = 24;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const UNREACHABLE_V6: u8 = 1;
const TIME_EXCEEDED_V6: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// This run's mark on its probes: an identifier that the socket filters know, and a keyed hash that
/// nobody who has not seen a probe can put under an answer to it.
#[derive(Clone)]
pub(crate) struct Mark {
    pub(crate) identifier: u16,
    key: RandomState,
}

impl Mark {
    /// A mark that no other run has.
    pub(crate) fn random() -> Self {
        let key = RandomState::new();
        let [.., high, low] = key.hash_one(0u8).to_be_bytes();
        Self {
            identifier: u16::from_be_bytes([high, low]),
            key,
        }
    }

    fn tag(&self, number: u64, target: IpAddr) -> u64 {
        self.key.hash_one((number, target))
    }

    /// An echo request. The kernel computes ICMPv6 checksums itself.
    pub(crate) fn request(&self, number: u64, target: IpAddr) -> [u8; LEN] {
        let [.., high, low] = number.to_be_bytes();
        let [id_high, id_low] = self.identifier.to_be_bytes();
        let kind = if target.is_ipv4() {
            ECHO_REQUEST
        } else {
            ECHO_REQUEST_V6
        };
        let mut packet = [0; LEN];
        packet[..8].copy_from_slice(&[kind, 0, 0, 0, id_high, id_low, high, low]);
        packet[8..16].copy_from_slice(&number.to_be_bytes());
        packet[16..].copy_from_slice(&self.tag(number, target).to_be_bytes());
        if target.is_ipv4() {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// What a raw IPv4 socket received: an IP header and what follows.
    pub(crate) fn read_v4(&self, from: Ipv4Addr, bytes: &[u8]) -> Option<Answer> {
        let icmp = after_v4_header(bytes)?;
        match (*icmp.first()?, *icmp.get(1)?) {
            (ECHO_REPLY, _) => self.reply(icmp, IpAddr::V4(from)),
            (kind @ (UNREACHABLE | TIME_EXCEEDED), code) => {
                let quoted = icmp.get(8..)?;
                let target = <[u8; 4]>::try_from(quoted.get(16..20)?).ok()?;
                let inner = after_v4_header(quoted)?;
                if *quoted.get(9)? != 1 || *inner.first()? != ECHO_REQUEST {
                    return None;
                }
                let errno = match (kind, code) {
                    (UNREACHABLE, code) => errno_v4(code),
                    _ => libc::EHOSTUNREACH,
                };
                self.refusal(inner, IpAddr::from(target), errno)
            }
            _ => None,
        }
    }

    /// What a raw ICMPv6 socket received: the message without its IP header.
    pub(crate) fn read_v6(&self, from: Ipv6Addr, icmp: &[u8]) -> Option<Answer> {
        match (*icmp.first()?, *icmp.get(1)?) {
            (ECHO_REPLY_V6, _) => self.reply(icmp, IpAddr::V6(from)),
            (kind @ (UNREACHABLE_V6 | TIME_EXCEEDED_V6), code) => {
                let quoted = icmp.get(8..)?;
                let target = <[u8; 16]>::try_from(quoted.get(24..40)?).ok()?;
                let inner = quoted.get(40..)?;
                if *quoted.get(6)? != 58 || *inner.first()? != ECHO_REQUEST_V6 {
                    return None;
                }
                let errno = match (kind, code) {
                    (UNREACHABLE_V6, code) => errno_v6(code),
                    _ => libc::EHOSTUNREACH,
                };
                self.refusal(inner, IpAddr::from(target), errno)
            }
            _ => None,
        }
    }

    fn reply(&self, icmp: &[u8], from: IpAddr) -> Option<Answer> {
        let (number, tag) = body(icmp)?;
        (self.is_ours(icmp) && tag == self.tag(number, from))
            .then_some(Answer::Reply { number, from })
    }

    /// Routers need quote only 8 bytes of ours; where there is more, it must be right.
    fn refusal(&self, inner: &[u8], target: IpAddr, errno: i32) -> Option<Answer> {
        if !self.is_ours(inner) {
            return None;
        }
        if body(inner).is_some_and(|(number, tag)| tag != self.tag(number, target)) {
            return None;
        }
        let sequence = u16::from_be_bytes(inner.get(6..8)?.try_into().ok()?);
        Some(Answer::Refusal {
            sequence,
            target,
            errno,
        })
    }

    fn is_ours(&self, icmp: &[u8]) -> bool {
        icmp.get(4..6) == Some(&self.identifier.to_be_bytes())
    }
}

/// Something that was said about a probe of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The target answered.
    Reply {
        /// The probe's number.
        number: u64,
        /// The address that answered.
        from: IpAddr,
    },
    /// A router, or this host, could not deliver.
    Refusal {
        /// The low 16 bits of the probe's number.
        sequence: u16,
        /// Where the probe was going.
        target: IpAddr,
        /// The errno that a socket would get for it.
        errno: i32,
    },
}

fn body(icmp: &[u8]) -> Option<(u64, u64)> {
    let number = u64::from_be_bytes(icmp.get(8..16)?.try_into().ok()?);
    let tag = u64::from_be_bytes(icmp.get(16..LEN)?.try_into().ok()?);
    Some((number, tag))
}

fn after_v4_header(bytes: &[u8]) -> Option<&[u8]> {
    let length = usize::from(bytes.first()? & 0x0f) * 4;
    (length >= 20).then(|| bytes.get(length..))?
}

/// As `icmp_err_convert` in `net/ipv4/icmp.c`.
const fn errno_v4(code: u8) -> i32 {
    match code {
        0 | 6 | 9 | 11 => libc::ENETUNREACH,
        2 => libc::ENOPROTOOPT,
        3 => libc::ECONNREFUSED,
        4 => libc::EMSGSIZE,
        5 => libc::EOPNOTSUPP,
        7 => libc::EHOSTDOWN,
        8 => libc::ENONET,
        _ => libc::EHOSTUNREACH,
    }
}

/// As `tab_unreach` in `net/ipv6/icmp.c`.
const fn errno_v6(code: u8) -> i32 {
    match code {
        0 => libc::ENETUNREACH,
        1 | 5 | 6 => libc::EACCES,
        4 => libc::ECONNREFUSED,
        _ => libc::EHOSTUNREACH,
    }
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|c| match *c {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = ((folded & 0xffff) + (folded >> 16)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn ip_v4(payload: &[u8], options: usize) -> Vec<u8> {
        let mut packet = vec![0u8; 20 + options];
        packet[0] = 0x45 + u8::try_from(options / 4).unwrap();
        packet[9] = 1;
        packet[16..20].copy_from_slice(&V4.octets());
        packet.extend_from_slice(payload);
        packet
    }

    fn answered(request: &[u8], kind: u8) -> Vec<u8> {
        let mut reply = request.to_vec();
        reply[0] = kind;
        reply
    }

    #[test]
    fn a_request_checks_out() {
        let packet = Mark::random().request(7, IpAddr::V4(V4));
        assert_eq!(checksum(&packet), 0, "a sum over its own checksum is zero");
        assert_eq!(checksum(&[1]), !0x0100);
    }

    #[test]
    fn replies_are_ours_only_with_identifier_tag_and_source() {
        let mark = Mark::random();
        let number = 0x1_0000_0007;
        let request = mark.request(number, IpAddr::V4(V4));
        let reply = ip_v4(&answered(&request, ECHO_REPLY), 4);
        let from = IpAddr::V4(V4);
        assert_eq!(
            mark.read_v4(V4, &reply),
            Some(Answer::Reply { number, from })
        );
        assert_eq!(mark.read_v4(Ipv4Addr::new(192, 0, 2, 2), &reply), None);
        assert_eq!(Mark::random().read_v4(V4, &reply), None);
        for byte in [28, 33, 47] {
            let mut forged = reply.clone();
            forged[byte] ^= 1;
            assert_eq!(mark.read_v4(V4, &forged), None, "byte {byte}");
        }
        for length in 0..reply.len() {
            assert_eq!(mark.read_v4(V4, &reply[..length]), None, "{length} bytes");
        }
        assert_eq!(
            mark.read_v4(V4, &ip_v4(&request, 0)),
            None,
            "our own request"
        );

        let request = mark.request(9, IpAddr::V6(V6));
        let reply = answered(&request, ECHO_REPLY_V6);
        assert_eq!(
            mark.read_v6(V6, &reply),
            Some(Answer::Reply {
                number: 9,
                from: IpAddr::V6(V6)
            })
        );
        for length in 0..reply.len() {
            assert_eq!(mark.read_v6(V6, &reply[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn refusals_quote_eight_bytes_or_more() {
        let mark = Mark::random();
        let request = mark.request(0x1_0002, IpAddr::V4(V4));
        for quoted in [8, 16, LEN] {
            let mut error = vec![UNREACHABLE, 1, 0, 0, 0, 0, 0, 0];
            error.extend(ip_v4(&request[..quoted], 0));
            let router = Ipv4Addr::new(10, 0, 0, 1);
            assert_eq!(
                mark.read_v4(router, &ip_v4(&error, 0)),
                Some(Answer::Refusal {
                    sequence: 2,
                    target: IpAddr::V4(V4),
                    errno: libc::EHOSTUNREACH
                })
            );
            assert_eq!(Mark::random().read_v4(router, &ip_v4(&error, 0)), None);
        }
        let request = mark.request(3, IpAddr::V6(V6));
        let mut error = vec![TIME_EXCEEDED_V6, 0, 0, 0, 0, 0, 0, 0];
        let mut header = vec![0x60, 0, 0, 0, 0, 24, 58, 64];
        header.extend([0; 16]);
        header.extend(V6.octets());
        error.extend(header);
        error.extend(request);
        assert_eq!(
            mark.read_v6(Ipv6Addr::LOCALHOST, &error),
            Some(Answer::Refusal {
                sequence: 3,
                target: IpAddr::V6(V6),
                errno: libc::EHOSTUNREACH
            })
        );
        *error.last_mut().unwrap() ^= 1;
        assert_eq!(
            mark.read_v6(Ipv6Addr::LOCALHOST, &error),
            None,
            "a quote that is not ours"
        );
    }
}
