//! Address families and their prefixes on the wire (RFC 4271 section 4.3, RFC 4760 section 5,
//! RFC 7911 section 3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use events::Prefix;
use ipnet::{Ipv4Net, Ipv6Net};
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

    const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
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

    /// Neither.
    pub const NONE: Self = Self {
        ipv4: false,
        ipv6: false,
    };

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// Adds one.
    pub const fn insert(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = true,
            Family::Ipv6 => self.ipv6 = true,
        }
    }

    /// Takes one away.
    pub const fn remove(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 = false,
            Family::Ipv6 => self.ipv6 = false,
        }
    }

    /// Those of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self {
            ipv4: self.ipv4 && other.ipv4,
            ipv6: self.ipv6 && other.ipv6,
        }
    }
}

/// What an NLRI entry names: a prefix, and which of the paths to it (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nlri {
    /// The prefix, its host bits cleared.
    pub prefix: Prefix,
    /// The path identifier; there is one exactly where ADD-PATH was negotiated for the family.
    pub path_id: Option<u32>,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self {
            prefix,
            path_id: None,
        }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path_id {
            Some(id) => write!(f, "{} path {id}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

/// A prefix that cannot be decoded. None of the field's prefixes can be trusted then
/// (RFC 7606 section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NlriError {
    #[error("prefix length {length} is longer than {max}")]
    TooLong { length: u8, max: u8 },
    #[error("the last prefix, of length {length}, is cut off")]
    CutOff { length: u8 },
    #[error("the last path identifier is cut off")]
    PathIdCutOff,
}

/// A field of NLRI that was found to be well-formed, decoded while it is walked.
#[derive(Clone, Copy, Debug)]
pub struct NlriField<'a> {
    bytes: &'a [u8],
    family: Family,
    add_path: bool,
}

impl<'a> NlriField<'a> {
    /// Whether path identifiers are there is what was negotiated for the family, and never a guess.
    pub(crate) fn check(
        family: Family,
        add_path: bool,
        bytes: &'a [u8],
    ) -> Result<Self, NlriError> {
        let field = Self {
            bytes,
            family,
            add_path,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = field.split(rest)?.rest;
        }
        Ok(field)
    }

    pub(crate) const fn none() -> Self {
        Self {
            bytes: &[],
            family: Family::Ipv4,
            add_path: false,
        }
    }

    /// The family of all its entries.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether it names nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many entries there are; walks the field.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut rest = self.bytes;
        std::iter::from_fn(|| {
            let entry = self.split(rest).ok()?;
            rest = entry.rest;
            Some(())
        })
        .count()
    }

    /// The entries in the order of the wire.
    #[must_use]
    pub const fn iter(&self) -> NlriIter<'a> {
        NlriIter { field: *self }
    }

    fn split(&self, bytes: &'a [u8]) -> Result<Raw<'a>, NlriError> {
        let (path_id, bytes) = if self.add_path {
            let (id, rest) = bytes
                .split_first_chunk::<4>()
                .ok_or(NlriError::PathIdCutOff)?;
            (Some(u32::from_be_bytes(*id)), rest)
        } else {
            (None, bytes)
        };
        let Some((&length, rest)) = bytes.split_first() else {
            return Err(NlriError::PathIdCutOff);
        };
        let max = self.family.bits();
        if length > max {
            return Err(NlriError::TooLong { length, max });
        }
        let (address, rest) = rest
            .split_at_checked(usize::from(length.div_ceil(8)))
            .ok_or(NlriError::CutOff { length })?;
        Ok(Raw {
            path_id,
            length,
            address,
            rest,
        })
    }
}

struct Raw<'a> {
    path_id: Option<u32>,
    length: u8,
    address: &'a [u8],
    rest: &'a [u8],
}

/// Walks an [`NlriField`].
#[derive(Clone, Debug)]
pub struct NlriIter<'a> {
    field: NlriField<'a>,
}

impl Iterator for NlriIter<'_> {
    type Item = Nlri;

    /// Bits beyond a prefix's length are ignored, as RFC 4271 section 4.3 says.
    fn next(&mut self) -> Option<Nlri> {
        if self.field.bytes.is_empty() {
            return None;
        }
        let raw = self.field.split(self.field.bytes).ok()?;
        self.field.bytes = raw.rest;
        let length = raw.length;
        let prefix = match self.field.family {
            Family::Ipv4 => {
                let bits = u32::from_be_bytes(padded(raw.address));
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Prefix::V4(Ipv4Net::new(Ipv4Addr::from(bits & mask), length).ok()?)
            }
            Family::Ipv6 => {
                let bits = u128::from_be_bytes(padded(raw.address));
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Prefix::V6(Ipv6Net::new(Ipv6Addr::from(bits & mask), length).ok()?)
            }
        };
        Some(Nlri {
            prefix,
            path_id: raw.path_id,
        })
    }
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

    fn read(family: Family, add_path: bool, bytes: &[u8]) -> Vec<String> {
        let field = NlriField::check(family, add_path, bytes).unwrap();
        let entries: Vec<String> = field.iter().map(|nlri| nlri.to_string()).collect();
        assert_eq!(entries.len(), field.count());
        entries
    }

    /// RFC 4271 section 4.3: length 0 matches all addresses, and four octets of NLRI that begin
    /// with it are four octets of NLRI.
    #[test]
    fn the_default_route_packed_first_is_not_taken_for_a_path_identifier() {
        let bytes = [0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
        assert_eq!(
            read(Family::Ipv4, false, &bytes),
            [
                "0.0.0.0/0",
                "10.0.1.0/24",
                "10.0.2.0/24",
                "10.0.3.0/24",
                "10.9.0.0/16"
            ]
        );
    }

    /// RFC 7911 section 3: four octets before each prefix, zero is as good as any other number.
    #[test]
    fn path_identifiers_are_read_where_they_were_negotiated() {
        let bytes = [
            &[0, 0, 0, 0, 0][..],
            &[0, 0, 1, 0, 8, 10],
            &[255, 255, 255, 255, 16, 10, 9],
        ];
        assert_eq!(
            read(Family::Ipv4, true, &bytes.concat()),
            [
                "0.0.0.0/0 path 0",
                "10.0.0.0/8 path 256",
                "10.9.0.0/16 path 4294967295"
            ]
        );
    }

    #[test]
    fn bits_beyond_the_length_are_cleared() {
        assert_eq!(read(Family::Ipv4, false, &[9, 10, 255]), ["10.128.0.0/9"]);
        assert_eq!(
            read(Family::Ipv6, false, &[33, 0x20, 1, 0xd, 0xb8, 0xff]),
            ["2001:db8:8000::/33"]
        );
        assert_eq!(read(Family::Ipv4, false, &[32, 1, 2, 3, 4]), ["1.2.3.4/32"]);
        assert_eq!(read(Family::Ipv6, false, &[0]), ["::/0"]);
    }

    /// RFC 7606 section 5.3.
    #[test]
    fn what_does_not_fit_is_an_error() {
        use Family::{Ipv4, Ipv6};
        let too_long = |length, max| NlriError::TooLong { length, max };
        let cut = |length| NlriError::CutOff { length };
        let cases: [(Family, bool, &[u8], NlriError); 7] = [
            (Ipv4, false, &[33, 1, 2, 3, 4, 5], too_long(33, 32)),
            (Ipv4, false, &[8, 10, 24, 10, 0], cut(24)),
            (Ipv6, false, &[129], too_long(129, 128)),
            (Ipv6, false, &[1], cut(1)),
            (Ipv4, true, &[0, 0, 0], NlriError::PathIdCutOff),
            (Ipv4, true, &[0, 0, 0, 1], NlriError::PathIdCutOff),
            // A prefix without the path identifier that was negotiated.
            (Ipv4, true, &[24, 10, 0, 1], NlriError::PathIdCutOff),
        ];
        for (family, add_path, bytes, error) in cases {
            let found = NlriField::check(family, add_path, bytes).map(|_| ());
            assert_eq!(found, Err(error), "{bytes:?}");
        }
    }
}
