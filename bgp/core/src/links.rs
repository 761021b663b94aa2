//! AS links of a stored path.

use events::Asn;

use crate::attributes::packed_path;

/// A link between two ASes, the nearer to us first; an AS itself where both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkKey {
    pub near: u32,
    pub far: u32,
}

impl LinkKey {
    /// The link; `None` for an AS.
    pub fn link(self) -> Option<(Asn, Asn)> {
        (self.near != self.far).then_some((Asn(self.near), Asn(self.far)))
    }

    const fn asn(asn: u32) -> Self {
        Self {
            near: asn,
            far: asn,
        }
    }
}

const SET: u8 = 1;
const SEQUENCE: u8 = 2;

/// The links and ASes of packed attributes' path, each once, in order.
///
/// An AS that is prepended is there once. Members of an AS_SET have no order, so no link leads to
/// them; confederations are no part of the public path.
pub(crate) fn of(packed: &[u8], keys: &mut Vec<LinkKey>) {
    keys.clear();
    let mut path = packed_path(packed);
    let mut last = None;
    while let [kind, count, rest @ ..] = path {
        let Some((members, rest)) = rest.split_at_checked(usize::from(*count) * 4) else {
            break;
        };
        path = rest;
        for octets in members.as_chunks::<4>().0 {
            let asn = u32::from_be_bytes(*octets);
            match *kind {
                SEQUENCE => {
                    keys.push(LinkKey::asn(asn));
                    if let Some(near) = last.replace(asn)
                        && near != asn
                    {
                        keys.push(LinkKey { near, far: asn });
                    }
                }
                SET => {
                    keys.push(LinkKey::asn(asn));
                    last = None;
                }
                _ => {}
            }
        }
    }
    keys.sort_unstable();
    keys.dedup();
}

/// The origin AS (RFC 6811 section 2): `None` where the path ends with a set or is empty.
pub(crate) fn origin(packed: &[u8]) -> Option<Asn> {
    let mut path = packed_path(packed);
    let mut origin = None;
    while let [kind, count, rest @ ..] = path {
        let (members, rest) = rest.split_at_checked(usize::from(*count) * 4)?;
        path = rest;
        origin = match (*kind, members.last_chunk::<4>()) {
            (SEQUENCE, Some(octets)) => Some(Asn(u32::from_be_bytes(*octets))),
            _ => None,
        };
    }
    origin
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::attributes::{Attributes, Origin};
    use crate::path::{AsPath, Segment, SegmentKind};

    /// Packed attributes with this path.
    pub fn packed(asns: &[u32]) -> Vec<u8> {
        segments(&[(SegmentKind::Sequence, asns)])
    }

    fn segments(segments: &[(SegmentKind, &[u32])]) -> Vec<u8> {
        let segment = |(kind, asns): &(SegmentKind, &[u32])| Segment {
            kind: *kind,
            members: asns.iter().copied().map(Asn).collect(),
        };
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath(segments.iter().map(segment).collect()),
            next_hop: [192, 0, 2, 1].into(),
            link_local: None,
            other: vec![0x40, 5, 4, 0, 0, 0, 100],
        }
        .pack()
    }

    fn read(packed: &[u8]) -> Vec<(u32, u32)> {
        let mut keys = Vec::new();
        of(packed, &mut keys);
        keys.iter().map(|key| (key.near, key.far)).collect()
    }

    #[test]
    fn prepending_makes_no_link_and_sets_end_the_path() {
        assert_eq!(read(&packed(&[])), []);
        assert_eq!(
            read(&packed(&[3, 1, 1, 2])),
            [(1, 1), (1, 2), (2, 2), (3, 1), (3, 3)]
        );
        use SegmentKind::{ConfederationSequence, Sequence, Set};
        let mixed = segments(&[
            (ConfederationSequence, &[9]),
            (Sequence, &[1, 2]),
            (Set, &[7, 5]),
        ]);
        assert_eq!(read(&mixed), [(1, 1), (1, 2), (2, 2), (5, 5), (7, 7)]);
        assert_eq!(origin(&mixed), None);
        assert_eq!(origin(&packed(&[1, 2])), Some(Asn(2)));
        assert_eq!(origin(&packed(&[])), None);
    }
}
