//! Address families and their prefixes on the wire (RFC 4271 section 4.3, RFC 4760 section 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use events::Prefix;
use serde::{Deserialize, Serialize};

/// An address family with SAFI 1, unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// AFI 1.
    Ipv4,
    /// AFI 2.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub(crate) const fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// The AFI's number.
    #[must_use]
    pub const fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The family of a prefix.
    #[must_use]
    pub const fn of_prefix(prefix: &Prefix) -> Self {
        match prefix {
            Prefix::V4(_) => Self::Ipv4,
            Prefix::V6(_) => Self::Ipv6,
        }
    }
}

/// Families of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4 unicast.
    pub ipv4: bool,
    /// IPv6 unicast.
    pub ipv6: bool,
}

impl Families {
    /// Both families.
    pub const BOTH: Self = Self {
        ipv4: true,
        ipv6: true,
    };

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    pub(crate) const fn insert(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = true,
            Family::Ipv6 => self.ipv6 = true,
        }
    }

    pub(crate) const fn intersection(self, other: Self) -> Self {
        Self {
            ipv4: self.ipv4 && other.ipv4,
            ipv6: self.ipv6 && other.ipv6,
        }
    }
}

/// A prefix that cannot be decoded. None of the field's prefixes can be trusted then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NlriError {
    #[error("prefix length {length} is longer than {max}")]
    TooLong { length: u8, max: u8 },
    #[error("the last prefix, of length {length}, is cut off")]
    CutOff { length: u8 },
}

/// Prefixes without path identifiers. Bits beyond a prefix's length are ignored, as RFC 4271 says.
pub(crate) fn decode(family: Family, mut bytes: &[u8]) -> Result<Vec<Prefix>, NlriError> {
    let max = match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    };
    let mut prefixes = Vec::new();
    while let Some((&length, rest)) = bytes.split_first() {
        if length > max {
            return Err(NlriError::TooLong { length, max });
        }
        let octets = usize::from(length.div_ceil(8));
        let Some((address, rest)) = rest.split_at_checked(octets) else {
            return Err(NlriError::CutOff { length });
        };
        let address = match family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(padded::<4>(address))),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(padded::<16>(address))),
        };
        let prefix =
            Prefix::new(address, length).map_err(|_| NlriError::TooLong { length, max })?;
        prefixes.push(prefix.trunc());
        bytes = rest;
    }
    Ok(prefixes)
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut address = [0; N];
    for (to, from) in address.iter_mut().zip(bytes) {
        *to = *from;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(family: Family, bytes: &[u8]) -> Vec<String> {
        let prefixes = decode(family, bytes).unwrap();
        prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_default_route_packed_first_is_not_taken_for_a_path_identifier() {
        let bytes = [0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
        assert_eq!(
            decoded(Family::Ipv4, &bytes),
            [
                "0.0.0.0/0",
                "10.0.1.0/24",
                "10.0.2.0/24",
                "10.0.3.0/24",
                "10.9.0.0/16"
            ]
        );
    }

    #[test]
    fn bits_beyond_the_length_are_cleared() {
        assert_eq!(decoded(Family::Ipv4, &[9, 10, 255]), ["10.128.0.0/9"]);
        assert_eq!(
            decoded(Family::Ipv6, &[33, 0x20, 1, 0xd, 0xb8, 0xff]),
            ["2001:db8:8000::/33"]
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let cases: [(Family, &[u8], NlriError); 4] = [
            (
                Family::Ipv4,
                &[33, 1, 2, 3, 4, 5],
                NlriError::TooLong {
                    length: 33,
                    max: 32,
                },
            ),
            (
                Family::Ipv4,
                &[8, 10, 24, 10, 0],
                NlriError::CutOff { length: 24 },
            ),
            (
                Family::Ipv6,
                &[129],
                NlriError::TooLong {
                    length: 129,
                    max: 128,
                },
            ),
            (Family::Ipv6, &[1], NlriError::CutOff { length: 1 }),
        ];
        for (family, bytes, error) in cases {
            assert_eq!(decode(family, bytes), Err(error));
        }
    }
}
