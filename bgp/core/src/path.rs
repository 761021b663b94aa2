//! AS_PATH (RFC 4271 section 4.3, RFC 5065, RFC 6793).

use events::Asn;
use serde::{Deserialize, Serialize};

/// Kinds of AS_PATH segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// AS_SET: members of an aggregate, unordered.
    Set,
    /// AS_SEQUENCE.
    Sequence,
    /// AS_CONFED_SEQUENCE (RFC 5065).
    ConfederationSequence,
    /// AS_CONFED_SET (RFC 5065).
    ConfederationSet,
}

impl SegmentKind {
    const fn from_wire(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Set,
            2 => Self::Sequence,
            3 => Self::ConfederationSequence,
            4 => Self::ConfederationSet,
            _ => return None,
        })
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfederationSequence => 3,
            Self::ConfederationSet => 4,
        }
    }

    const fn confederation(self) -> bool {
        matches!(self, Self::ConfederationSequence | Self::ConfederationSet)
    }
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its kind.
    pub kind: SegmentKind,
    /// Its members in the order of the wire; never empty, at most 255.
    pub members: Vec<Asn>,
}

/// What a scan of an AS_PATH's value shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// It has a confederation's segment.
    pub confederation: bool,
}

/// Checks an AS_PATH's value without decoding it.
///
/// # Errors
/// What RFC 7606 section 7.2 calls malformed: an unknown kind, a count of zero, a segment that
/// ends beyond the value, a single byte at the end; and AS 0 (RFC 7607 section 2).
pub(crate) fn scan(mut value: &[u8], four_octets: bool) -> Result<Scanned, &'static str> {
    let width = if four_octets { 4 } else { 2 };
    let mut scanned = Scanned::default();
    while !value.is_empty() {
        let [kind, count, rest @ ..] = value else {
            return Err("a segment header is cut off");
        };
        let kind = SegmentKind::from_wire(*kind).ok_or("a segment has an unknown type")?;
        if *count == 0 {
            return Err("a segment has no members");
        }
        let (members, rest) = rest
            .split_at_checked(usize::from(*count) * width)
            .ok_or("a segment is cut off")?;
        let zero = if four_octets {
            members.as_chunks::<4>().0.contains(&[0; 4])
        } else {
            members.as_chunks::<2>().0.contains(&[0; 2])
        };
        if zero {
            return Err("it has AS 0 (RFC 7607)");
        }
        scanned.confederation |= kind.confederation();
        value = rest;
    }
    Ok(scanned)
}

/// A value in two octets that [`scan`] accepted, in four.
pub(crate) fn widened(mut value: &[u8]) -> Vec<u8> {
    let mut wide = Vec::with_capacity(value.len() * 2);
    while let [kind, count, rest @ ..] = value {
        let Some((members, rest)) = rest.split_at_checked(usize::from(*count) * 2) else {
            break;
        };
        wide.extend_from_slice(&[*kind, *count]);
        for [high, low] in members.as_chunks::<2>().0 {
            wide.extend_from_slice(&[0, 0, *high, *low]);
        }
        value = rest;
    }
    wide
}

/// An AS_PATH; empty for a route of the neighbour's own AS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// Decodes the attribute's value with AS numbers of four octets or of two.
    ///
    /// # Errors
    /// A value that [`scan`] refuses.
    pub(crate) fn decode(mut value: &[u8], four_octets: bool) -> Result<Self, &'static str> {
        scan(value, four_octets)?;
        let width = if four_octets { 4 } else { 2 };
        let mut segments = Vec::new();
        while let [kind, count, rest @ ..] = value {
            let kind = SegmentKind::from_wire(*kind).ok_or("a segment has an unknown type")?;
            let (members, rest) = rest
                .split_at_checked(usize::from(*count) * width)
                .ok_or("a segment is cut off")?;
            let members = members.chunks(width).map(number).collect();
            segments.push(Segment { kind, members });
            value = rest;
        }
        Ok(Self(segments))
    }

    /// The attribute's value with numbers of four octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in &self.0 {
            bytes.push(segment.kind.to_wire());
            bytes.push(u8::try_from(segment.members.len()).unwrap_or(u8::MAX));
            for asn in segment.members.iter().take(usize::from(u8::MAX)) {
                bytes.extend_from_slice(&asn.0.to_be_bytes());
            }
        }
        bytes
    }

    /// Nearest first; members of an AS_SET in order, members of confederations left out, as they
    /// are no part of the public path.
    #[must_use]
    pub fn flat(&self) -> Vec<Asn> {
        let public = self
            .0
            .iter()
            .filter(|segment| !segment.kind.confederation());
        public
            .flat_map(|segment| segment.members.iter().copied())
            .collect()
    }

    /// Length as RFC 4271 section 9.1.2.2 counts it: a set is one, confederations are nothing.
    fn length(&self) -> usize {
        let count = |segment: &Segment| match segment.kind {
            SegmentKind::Sequence => segment.members.len(),
            SegmentKind::Set => 1,
            SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet => 0,
        };
        self.0.iter().map(count).sum()
    }

    /// The true path out of a two-octet AS_PATH and the AS4_PATH beside it (RFC 6793 section
    /// 4.2.3): the leading part that AS4_PATH lacks, then AS4_PATH, whose confederation segments
    /// are dropped (section 6).
    #[must_use]
    pub(crate) fn merged_with_as4(self, mut as4: Self) -> Self {
        as4.0.retain(|segment| !segment.kind.confederation());
        let Some(mut missing) = self.length().checked_sub(as4.length()) else {
            return self;
        };
        let mut segments = Vec::new();
        for mut segment in self.0 {
            match segment.kind {
                SegmentKind::ConfederationSequence | SegmentKind::ConfederationSet => {}
                _ if missing == 0 => break,
                SegmentKind::Set => missing -= 1,
                SegmentKind::Sequence => {
                    segment.members.truncate(missing);
                    missing -= segment.members.len();
                }
            }
            segments.push(segment);
        }
        let mut tail = as4.0.into_iter();
        if let Some(first) = tail.next() {
            match segments.last_mut() {
                // One sequence that the merge had cut in two.
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && first.kind == SegmentKind::Sequence
                        && last.members.len() + first.members.len() <= usize::from(u8::MAX) =>
                {
                    last.members.extend(first.members);
                }
                _ => segments.push(first),
            }
        }
        segments.extend(tail);
        Self(segments)
    }
}

fn number(bytes: &[u8]) -> Asn {
    Asn(bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[(SegmentKind, &[u32])]) -> AsPath {
        AsPath(
            segments
                .iter()
                .map(|(kind, members)| Segment {
                    kind: *kind,
                    members: members.iter().copied().map(Asn).collect(),
                })
                .collect(),
        )
    }

    use SegmentKind::{ConfederationSequence, Sequence, Set};

    #[test]
    fn round_trip_and_flat_form() {
        let value = path(&[
            (ConfederationSequence, &[65001]),
            (Sequence, &[211_396, 64500]),
            (Set, &[3, 1, 2]),
        ]);
        assert_eq!(AsPath::decode(&value.encode(), true), Ok(value.clone()));
        assert_eq!(value.flat(), [211_396, 64500, 3, 1, 2].map(Asn));
        assert_eq!(AsPath::decode(&[], true), Ok(AsPath::default()));
        assert_eq!(
            AsPath::decode(&[2, 2, 0x5b, 0xa0, 0, 1], false),
            Ok(path(&[(Sequence, &[23456, 1])]))
        );
    }

    #[test]
    fn malformed_paths_are_refused() {
        for value in [
            &[2, 0][..],
            &[2],
            &[5, 1, 0, 0, 0, 1],
            &[0, 1, 0, 0, 0, 1],
            &[2, 2, 0, 0, 0, 1],
            &[2, 1, 0, 0, 0, 1, 9],
            &[2, 2, 0, 0, 0, 1, 0, 0, 0, 0],
        ] {
            assert!(AsPath::decode(value, true).is_err(), "{value:?}");
        }
    }

    #[test]
    fn as4_path_replaces_the_tail() {
        let merged = |old: AsPath, new: AsPath| old.merged_with_as4(new).flat();
        assert_eq!(
            merged(
                path(&[(Sequence, &[10, 23456, 23456])]),
                path(&[(Sequence, &[211_396, 211_397])])
            ),
            [10, 211_396, 211_397].map(Asn)
        );
        assert_eq!(
            merged(
                path(&[(Sequence, &[10, 20]), (Set, &[7, 8])]),
                path(&[(Set, &[70_007, 70_008])])
            ),
            [10, 20, 70_007, 70_008].map(Asn)
        );
        assert_eq!(
            merged(path(&[(Sequence, &[10])]), path(&[(Sequence, &[1, 2])])),
            [Asn(10)],
            "an AS4_PATH longer than AS_PATH is ignored"
        );
        // RFC 6793 section 6: confederation segments of AS4_PATH are discarded.
        assert_eq!(
            path(&[(ConfederationSequence, &[65001]), (Sequence, &[10, 23456])]).merged_with_as4(
                path(&[(ConfederationSequence, &[65002]), (Sequence, &[211_396])])
            ),
            path(&[
                (ConfederationSequence, &[65001]),
                (Sequence, &[10, 211_396])
            ])
        );
    }
}
