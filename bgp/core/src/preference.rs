//! Which of several paths to a prefix is the best.

use std::cmp::Reverse;

use crate::attributes::{Tlvs, kind, packed_parts};

/// The lower, the better: LOCAL_PREF (100 where it is missing), length of AS_PATH, ORIGIN,
/// MULTI_EXIT_DISC (0 where it is missing), after RFC 4271 section 9.1.2.2. MULTI_EXIT_DISC is
/// compared also between different ASes, so that the order is total. Whoever asks breaks ties by the
/// lowest path identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Preference {
    local_pref: Reverse<u32>,
    path_length: usize,
    origin: u8,
    med: u32,
}

impl Preference {
    /// Of packed attributes.
    pub fn of(packed: &[u8]) -> Self {
        let mut preference = Self {
            local_pref: Reverse(100),
            path_length: 0,
            origin: 2,
            med: 0,
        };
        let Some((origin, path, other)) = packed_parts(packed) else {
            return preference;
        };
        preference.origin = origin;
        preference.path_length = length(path);
        for tlv in Tlvs(other) {
            let Ok(octets) = <[u8; 4]>::try_from(tlv.value) else {
                continue;
            };
            match tlv.kind {
                kind::LOCAL_PREF => preference.local_pref = Reverse(u32::from_be_bytes(octets)),
                kind::MED => preference.med = u32::from_be_bytes(octets),
                _ => {}
            }
        }
        preference
    }
}

/// A set is one, confederations are nothing (RFC 4271 section 9.1.2.2 (a), RFC 5065 section 5.3).
fn length(mut path: &[u8]) -> usize {
    let mut length = 0;
    while let [kind, count, rest @ ..] = path {
        let Some((_, rest)) = rest.split_at_checked(usize::from(*count) * 4) else {
            break;
        };
        path = rest;
        length += match kind {
            1 => 1,
            2 => usize::from(*count),
            _ => 0,
        };
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::tests::packed;

    #[test]
    fn each_rule_is_asked_only_where_those_before_are_even() {
        let with = |path: &[u32], origin: u8, other: &[u8]| {
            let mut bytes = packed(path);
            let end = bytes.len() - 7;
            bytes.truncate(end);
            bytes[5] = origin;
            bytes.extend_from_slice(other);
            Preference::of(&bytes)
        };
        let local_pref = |value: u8| [0x40, kind::LOCAL_PREF, 4, 0, 0, 0, value];
        let med = |value: u8| [0x80, kind::MED, 4, 0, 0, 0, value];
        let best_first = [
            with(&[1, 2, 3], 2, &[local_pref(101), med(9)].concat()),
            with(&[1], 2, &med(9)),
            with(&[1, 2], 0, &[]),
            with(&[1, 2], 0, &med(1)),
            with(&[1, 2], 1, &[]),
            with(&[1, 2, 3], 0, &[]),
            with(&[], 0, &local_pref(99)),
        ];
        assert!(best_first.is_sorted_by(|better, worse| better < worse));
        assert_eq!(with(&[1], 0, &local_pref(100)), with(&[2], 0, &med(0)));
    }
}
