//! Route origin validation (RFC 6811).

use events::{Asn, OriginValidation, Prefix};
use serde::{Deserialize, Serialize};

/// A Validated ROA Payload: this AS may originate the prefix and its more specifics up to a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vrp {
    /// The prefix, its host bits cleared.
    pub prefix: Prefix,
    /// The longest prefix that is allowed.
    pub max_length: u8,
    /// Who may originate it; AS 0: nobody (RFC 7607, RFC 6483 section 4).
    pub asn: Asn,
}

impl Vrp {
    /// `None` where the length is shorter than the prefix's own or longer than an address, or host
    /// bits are set.
    #[must_use]
    pub fn new(prefix: Prefix, max_length: u8, asn: Asn) -> Option<Self> {
        let sound = (prefix.prefix_len()..=prefix.max_prefix_len()).contains(&max_length)
            && prefix.trunc() == prefix;
        sound.then_some(Self {
            prefix,
            max_length,
            asn,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<A> {
    address: A,
    length: u8,
    max_length: u8,
    asn: u32,
}

/// A set of VRPs: sorted, 12 bytes each for IPv4 and 32 for IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vrps {
    v4: Box<[Entry<u32>]>,
    v6: Box<[Entry<u128>]>,
}

impl FromIterator<Vrp> for Vrps {
    fn from_iter<I: IntoIterator<Item = Vrp>>(vrps: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for vrp in vrps {
            let (length, max_length) = (vrp.prefix.prefix_len(), vrp.max_length);
            let asn = vrp.asn.0;
            match vrp.prefix {
                Prefix::V4(prefix) => v4.push(Entry {
                    address: prefix.network().to_bits(),
                    length,
                    max_length,
                    asn,
                }),
                Prefix::V6(prefix) => v6.push(Entry {
                    address: prefix.network().to_bits(),
                    length,
                    max_length,
                    asn,
                }),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        Self {
            v4: v4.into_boxed_slice(),
            v6: v6.into_boxed_slice(),
        }
    }
}

impl Vrps {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none: then nothing can be validated.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Validates a route; `origin` is `None` where the path ends with an AS_SET.
    #[must_use]
    pub fn validate(&self, prefix: &Prefix, origin: Option<Asn>) -> OriginValidation {
        let length = prefix.prefix_len();
        let asn = origin.map(|asn| asn.0);
        match prefix {
            Prefix::V4(prefix) => {
                let bits = prefix.network().to_bits();
                validate(&self.v4, length, asn, |length| {
                    bits & u32::MAX.checked_shl(32 - length).unwrap_or(0)
                })
            }
            Prefix::V6(prefix) => {
                let bits = prefix.network().to_bits();
                validate(&self.v6, length, asn, |length| {
                    bits & u128::MAX.checked_shl(128 - length).unwrap_or(0)
                })
            }
        }
    }
}

fn validate<A: Ord + Copy>(
    entries: &[Entry<A>],
    length: u8,
    origin: Option<u32>,
    network: impl Fn(u32) -> A,
) -> OriginValidation {
    let mut covered = false;
    for shorter in (0..=length).rev() {
        let key = (network(u32::from(shorter)), shorter);
        let start = entries.partition_point(|entry| (entry.address, entry.length) < key);
        let same = |entry: &&Entry<A>| (entry.address, entry.length) == key;
        for entry in entries.iter().skip(start).take_while(same) {
            covered = true;
            if entry.max_length >= length && entry.asn != 0 && Some(entry.asn) == origin {
                return OriginValidation::Valid;
            }
        }
    }
    if covered {
        OriginValidation::Invalid
    } else {
        OriginValidation::NotFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OriginValidation::{Invalid, NotFound, Valid};

    fn vrps() -> Vrps {
        let vrp = |(prefix, max_length, asn): (&str, u8, u32)| {
            Vrp::new(prefix.parse().unwrap(), max_length, Asn(asn)).unwrap()
        };
        [
            ("10.0.0.0/8", 16, 1),
            ("10.1.0.0/16", 24, 2),
            ("10.1.0.0/16", 24, 2),
            ("11.0.0.0/8", 8, 0),
            ("0.0.0.0/0", 0, 9),
            ("2001:db8::/32", 48, 3),
            ("2001:db8::/32", 32, 4),
        ]
        .map(vrp)
        .into_iter()
        .collect()
    }

    #[test]
    fn the_states_of_rfc_6811() {
        let vrps = vrps();
        assert_eq!(vrps.len(), 6, "one was there twice");
        for (prefix, origin, expected) in [
            ("10.0.0.0/8", Some(1), Valid),
            ("10.2.0.0/16", Some(1), Valid),
            ("10.2.0.0/17", Some(1), Invalid),
            ("10.1.0.0/16", Some(1), Valid),
            ("10.1.2.0/24", Some(2), Valid),
            ("10.1.2.0/24", Some(1), Invalid),
            ("10.1.2.0/24", None, Invalid),
            ("11.0.0.0/8", Some(0), Invalid),
            ("0.0.0.0/0", Some(9), Valid),
            ("12.0.0.0/8", Some(1), Invalid),
            ("2001:db8::/32", Some(4), Valid),
            ("2001:db8:1::/48", Some(3), Valid),
            ("2001:db8:1::/48", Some(4), Invalid),
            ("2001:db9::/32", Some(3), NotFound),
            ("2000::/3", Some(3), NotFound),
        ] {
            let found = vrps.validate(&prefix.parse().unwrap(), origin.map(Asn));
            assert_eq!(found, expected, "{prefix} {origin:?}");
        }
        let none = Vrps::default();
        let prefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(none.validate(&prefix, Some(Asn(1))), NotFound);
    }

    #[test]
    fn lengths_that_make_no_sense_are_refused() {
        let vrp = |prefix: &str, length| Vrp::new(prefix.parse().unwrap(), length, Asn(1));
        assert_eq!(vrp("10.0.0.0/8", 7), None);
        assert_eq!(vrp("10.0.0.0/8", 33), None);
        assert_eq!(vrp("10.1.0.0/8", 8), None);
        assert!(vrp("10.0.0.0/8", 32).is_some());
        assert!(vrp("::/0", 128).is_some());
    }
}
