//! Capabilities (RFC 5492) of an OPEN.

use events::Asn;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::open::malformed;

/// Numbers of the capabilities that are understood here.
pub(crate) mod number {
    pub const MULTIPROTOCOL: u8 = 1;
    pub const ROUTE_REFRESH: u8 = 2;
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    pub const EXTENDED_MESSAGE: u8 = 6;
    pub const ROLE: u8 = 9;
    pub const GRACEFUL_RESTART: u8 = 64;
    pub const FOUR_OCTET_AS: u8 = 65;
    pub const ADD_PATH: u8 = 69;
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
}

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Multiprotocol extensions (RFC 4760 section 8).
    Multiprotocol {
        /// Address family.
        afi: u16,
        /// Subsequent address family.
        safi: u8,
    },
    /// Route refresh (RFC 2918).
    RouteRefresh,
    /// Extended next hop encoding (RFC 8950): AFI and SAFI of the NLRI, AFI of the next hop.
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// Extended message (RFC 8654).
    ExtendedMessage,
    /// BGP Role (RFC 9234); [`crate::Role`] names the assigned numbers.
    Role(u8),
    /// Graceful restart (RFC 4724, RFC 8538).
    GracefulRestart {
        /// The speaker has restarted.
        restarted: bool,
        /// It keeps routes over a NOTIFICATION (RFC 8538).
        notification: bool,
        /// Seconds that its restart takes at most.
        time: u16,
        /// AFI, SAFI, and whether forwarding went on.
        families: Vec<(u16, u8, bool)>,
    },
    /// AS numbers of four octets (RFC 6793).
    FourOctetAs(Asn),
    /// ADD-PATH (RFC 7911): AFI, SAFI and mode: 1 receive, 2 send, 3 both.
    AddPath(Vec<(u16, u8, u8)>),
    /// Enhanced route refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// Any other, passed over (RFC 5492 section 3).
    Other {
        /// Its number.
        number: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

impl Capability {
    /// # Errors
    /// An OPEN Message Error where a capability that carries a value has one that cannot be
    /// (RFC 4271 section 6.2: recognized, but malformed).
    pub(crate) fn decode(number: u8, value: &[u8]) -> Result<Self, Fault> {
        let wrong = || malformed(format!("capability {number} has length {}", value.len()));
        let many = |rest: bool| if rest { Ok(()) } else { Err(wrong()) };
        Ok(match number {
            number::MULTIPROTOCOL => {
                let [a, b, _, safi] = value else {
                    return Err(wrong());
                };
                Self::Multiprotocol {
                    afi: u16::from_be_bytes([*a, *b]),
                    safi: *safi,
                }
            }
            number::ROUTE_REFRESH => Self::RouteRefresh,
            number::EXTENDED_NEXT_HOP => {
                let (entries, rest) = value.as_chunks::<6>();
                many(rest.is_empty())?;
                let entry = |[a, b, c, d, e, f]: &[u8; 6]| {
                    let pair = |high: &u8, low: &u8| u16::from_be_bytes([*high, *low]);
                    (pair(a, b), pair(c, d), pair(e, f))
                };
                Self::ExtendedNextHop(entries.iter().map(entry).collect())
            }
            number::EXTENDED_MESSAGE => Self::ExtendedMessage,
            number::ROLE => {
                let [role] = value else { return Err(wrong()) };
                Self::Role(*role)
            }
            number::GRACEFUL_RESTART => {
                let ([high, low], rest) = value.split_first_chunk::<2>().ok_or_else(wrong)?;
                let (entries, rest) = rest.as_chunks::<4>();
                many(rest.is_empty())?;
                let entry = |[a, b, safi, flags]: &[u8; 4]| {
                    (u16::from_be_bytes([*a, *b]), *safi, flags & 0x80 != 0)
                };
                Self::GracefulRestart {
                    restarted: high & 0x80 != 0,
                    notification: high & 0x40 != 0,
                    time: u16::from_be_bytes([high & 0x0f, *low]),
                    families: entries.iter().map(entry).collect(),
                }
            }
            number::FOUR_OCTET_AS => {
                let octets = <[u8; 4]>::try_from(value).map_err(|_| wrong())?;
                Self::FourOctetAs(Asn(u32::from_be_bytes(octets)))
            }
            number::ADD_PATH => {
                let (entries, rest) = value.as_chunks::<4>();
                many(rest.is_empty())?;
                let entry =
                    |[a, b, safi, mode]: &[u8; 4]| (u16::from_be_bytes([*a, *b]), *safi, *mode);
                Self::AddPath(entries.iter().map(entry).collect())
            }
            number::ENHANCED_ROUTE_REFRESH => Self::EnhancedRouteRefresh,
            _ => Self::Other {
                number,
                value: value.to_vec(),
            },
        })
    }

    /// Appends number, length and value. Values beyond 255 octets cannot be; they are cut.
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let (number, value) = self.parts();
        let value = value.get(..255).unwrap_or(&value);
        bytes.push(number);
        bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(value);
    }

    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Multiprotocol { afi, safi } => {
                let [a, b] = afi.to_be_bytes();
                (number::MULTIPROTOCOL, vec![a, b, 0, *safi])
            }
            Self::RouteRefresh => (number::ROUTE_REFRESH, Vec::new()),
            Self::ExtendedNextHop(entries) => {
                let octets = |(afi, safi, hop): &(u16, u16, u16)| {
                    [*afi, *safi, *hop].map(u16::to_be_bytes).concat()
                };
                let value = entries.iter().flat_map(octets).collect();
                (number::EXTENDED_NEXT_HOP, value)
            }
            Self::ExtendedMessage => (number::EXTENDED_MESSAGE, Vec::new()),
            Self::Role(role) => (number::ROLE, vec![*role]),
            Self::GracefulRestart {
                restarted,
                notification,
                time,
                families,
            } => {
                let [high, low] = time.to_be_bytes();
                let flags = u8::from(*restarted) << 7 | u8::from(*notification) << 6;
                let mut value = vec![high & 0x0f | flags, low];
                for (afi, safi, forwarding) in families {
                    value.extend_from_slice(&afi.to_be_bytes());
                    value.extend_from_slice(&[*safi, u8::from(*forwarding) << 7]);
                }
                (number::GRACEFUL_RESTART, value)
            }
            Self::FourOctetAs(asn) => (number::FOUR_OCTET_AS, asn.0.to_be_bytes().to_vec()),
            Self::AddPath(entries) => {
                let octets = |(afi, safi, mode): &(u16, u8, u8)| {
                    let [a, b] = afi.to_be_bytes();
                    [a, b, *safi, *mode]
                };
                (number::ADD_PATH, entries.iter().flat_map(octets).collect())
            }
            Self::EnhancedRouteRefresh => (number::ENHANCED_ROUTE_REFRESH, Vec::new()),
            Self::Other { number, value } => (*number, value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wire forms by RFC 4760 8, 2918 2, 8950 4, 8654 3, 9234 4.1, 4724 3 and 8538 2, 6793 3,
    /// 7911 4, 7313 3.1.
    #[test]
    fn each_is_on_the_wire_as_its_rfc_says() {
        let cases: [(Capability, &[u8]); 10] = [
            (
                Capability::Multiprotocol { afi: 2, safi: 1 },
                &[1, 4, 0, 2, 0, 1],
            ),
            (Capability::RouteRefresh, &[2, 0]),
            (
                Capability::ExtendedNextHop(vec![(1, 1, 2)]),
                &[5, 6, 0, 1, 0, 1, 0, 2],
            ),
            (Capability::ExtendedMessage, &[6, 0]),
            (Capability::Role(3), &[9, 1, 3]),
            (
                Capability::GracefulRestart {
                    restarted: true,
                    notification: true,
                    time: 120,
                    families: vec![(1, 1, true), (2, 1, false)],
                },
                &[64, 10, 0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0],
            ),
            (
                Capability::FourOctetAs(Asn(211_396)),
                &[65, 4, 0, 3, 0x39, 0xc4],
            ),
            (
                Capability::AddPath(vec![(1, 1, 1), (2, 1, 3)]),
                &[69, 8, 0, 1, 1, 1, 0, 2, 1, 3],
            ),
            (Capability::EnhancedRouteRefresh, &[70, 0]),
            (
                Capability::Other {
                    number: 73,
                    value: vec![1, b'r', 0],
                },
                &[73, 3, 1, b'r', 0],
            ),
        ];
        for (capability, wire) in cases {
            let mut bytes = Vec::new();
            capability.encode(&mut bytes);
            assert_eq!(bytes, wire, "{capability:?}");
            assert_eq!(Capability::decode(wire[0], &wire[2..]), Ok(capability));
        }
    }

    #[test]
    fn values_that_cannot_be() {
        for (number, length) in [
            (1, 3),
            (5, 5),
            (9, 0),
            (9, 2),
            (64, 1),
            (64, 5),
            (65, 2),
            (69, 3),
        ] {
            let fault = Capability::decode(number, &vec![0; length]).unwrap_err();
            assert_eq!((fault.code, fault.subcode), (2, 0), "{number} of {length}");
        }
    }
}
