//! Decoded values of the attributes that are stored as they came.

use std::net::Ipv4Addr;

use events::Asn;

use crate::attributes::{Tlv, Tlvs, kind};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// MULTI_EXIT_DISC (RFC 4271 section 5.1.4).
    Med(u32),
    /// LOCAL_PREF (RFC 4271 section 5.1.5).
    LocalPref(u32),
    /// ATOMIC_AGGREGATE (RFC 4271 section 5.1.6).
    AtomicAggregate,
    /// AGGREGATOR (RFC 4271 section 5.1.7), or AS4_AGGREGATOR where AGGREGATOR says AS_TRANS.
    Aggregator {
        /// The AS that aggregated.
        asn: Asn,
        /// The router that did.
        address: Ipv4Addr,
    },
    /// COMMUNITIES (RFC 1997).
    Communities(Vec<u32>),
    /// ORIGINATOR_ID (RFC 4456).
    OriginatorId(Ipv4Addr),
    /// CLUSTER_LIST (RFC 4456).
    ClusterList(Vec<Ipv4Addr>),
    /// EXTENDED COMMUNITIES (RFC 4360), types that are not known included.
    ExtendedCommunities(Vec<[u8; 8]>),
    /// LARGE_COMMUNITY (RFC 8092).
    LargeCommunities(Vec<[u32; 3]>),
    /// OTC (RFC 9234 section 5).
    OnlyToCustomer(Asn),
    /// Any other.
    Other {
        /// Its flags.
        flags: u8,
        /// Its type.
        kind: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

/// An attribute's name in the IANA registry of BGP path attributes, as far as it is known here.
#[must_use]
pub const fn attribute_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        1 => "ORIGIN",
        2 => "AS_PATH",
        3 => "NEXT_HOP",
        4 => "MULTI_EXIT_DISC",
        5 => "LOCAL_PREF",
        6 => "ATOMIC_AGGREGATE",
        7 => "AGGREGATOR",
        8 => "COMMUNITIES",
        9 => "ORIGINATOR_ID",
        10 => "CLUSTER_LIST",
        14 => "MP_REACH_NLRI",
        15 => "MP_UNREACH_NLRI",
        16 => "EXTENDED COMMUNITIES",
        17 => "AS4_PATH",
        18 => "AS4_AGGREGATOR",
        22 => "PMSI_TUNNEL",
        23 => "Tunnel Encapsulation",
        25 => "IPv6 Address Specific Extended Community",
        26 => "AIGP",
        29 => "BGP-LS Attribute",
        32 => "LARGE_COMMUNITY",
        33 => "BGPsec_Path",
        35 => "Only to Customer (OTC)",
        40 => "BGP Prefix-SID",
        128 => "ATTR_SET",
        _ => return None,
    })
}

/// Decodes [`crate::Attributes::other`], in the order of the wire.
#[must_use]
pub fn attribute_values(other: &[u8]) -> Vec<AttributeValue> {
    let as4_aggregator = Tlvs(other)
        .find(|tlv| tlv.kind == kind::AS4_AGGREGATOR)
        .and_then(|tlv| aggregator(tlv.value));
    Tlvs(other)
        .filter(|tlv| tlv.kind != kind::AS4_AGGREGATOR)
        .map(|tlv| match (value(tlv), &as4_aggregator) {
            (Some(AttributeValue::Aggregator { asn, .. }), Some(true_one))
                if asn.0 == u32::from(crate::open::AS_TRANS) && tlv.value.len() == 6 =>
            {
                true_one.clone()
            }
            (Some(value), _) => value,
            (None, _) => AttributeValue::Other {
                flags: tlv.flags,
                kind: tlv.kind,
                value: tlv.value.to_vec(),
            },
        })
        .collect()
}

/// `None` for what is not known, or does not have its length.
fn value(tlv: Tlv<'_>) -> Option<AttributeValue> {
    let four = || <[u8; 4]>::try_from(tlv.value).ok();
    let number = || four().map(u32::from_be_bytes);
    Some(match tlv.kind {
        kind::MED => AttributeValue::Med(number()?),
        kind::LOCAL_PREF => AttributeValue::LocalPref(number()?),
        kind::ATOMIC_AGGREGATE => AttributeValue::AtomicAggregate,
        kind::AGGREGATOR => aggregator(tlv.value)?,
        kind::COMMUNITIES => AttributeValue::Communities(numbers(tlv.value).collect()),
        kind::ORIGINATOR_ID => AttributeValue::OriginatorId(four()?.into()),
        kind::CLUSTER_LIST => {
            AttributeValue::ClusterList(numbers(tlv.value).map(Ipv4Addr::from).collect())
        }
        kind::EXTENDED_COMMUNITIES => {
            AttributeValue::ExtendedCommunities(tlv.value.as_chunks().0.to_vec())
        }
        kind::LARGE_COMMUNITIES => AttributeValue::LargeCommunities(
            tlv.value
                .as_chunks::<12>()
                .0
                .iter()
                .map(|octets| {
                    let mut parts = numbers(octets);
                    std::array::from_fn(|_| parts.next().unwrap_or_default())
                })
                .collect(),
        ),
        kind::ONLY_TO_CUSTOMER => AttributeValue::OnlyToCustomer(Asn(number()?)),
        _ => return None,
    })
}

fn numbers(value: &[u8]) -> impl Iterator<Item = u32> {
    value.as_chunks().0.iter().copied().map(u32::from_be_bytes)
}

/// With an AS number of two octets or of four.
fn aggregator(value: &[u8]) -> Option<AttributeValue> {
    let (asn, address) = match *value {
        [a, b, ref address @ ..] if address.len() == 4 => ([0, 0, a, b], address),
        [a, b, c, d, ref address @ ..] if address.len() == 4 => ([a, b, c, d], address),
        _ => return None,
    };
    Some(AttributeValue::Aggregator {
        asn: Asn(u32::from_be_bytes(asn)),
        address: Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_decoded_as_its_rfc_says() {
        let other = [
            &[0x80, 4, 4, 0, 0, 1, 0][..],
            &[0x40, 5, 4, 0, 0, 0, 100],
            &[0x40, 6, 0],
            &[0xc0, 7, 8, 0, 3, 0x39, 0xc4, 192, 0, 2, 1],
            &[0xc0, 8, 8, 0xff, 0xff, 0xff, 1, 0xfb, 0xf4, 0, 7],
            &[0x80, 9, 4, 192, 0, 2, 2],
            &[0x80, 10, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xc0, 16, 8, 0, 2, 0xfb, 0xf4, 0, 0, 0, 9],
            &[0xc0, 32, 12, 0, 3, 0x39, 0xc4, 0, 0, 0, 1, 0, 0, 0, 2],
            &[0xc0, 35, 4, 0, 0, 0xfb, 0xf4],
            &[0xd0, 250, 0, 2, 7, 7],
        ];
        let expected = [
            AttributeValue::Med(256),
            AttributeValue::LocalPref(100),
            AttributeValue::AtomicAggregate,
            AttributeValue::Aggregator {
                asn: Asn(211_396),
                address: [192, 0, 2, 1].into(),
            },
            AttributeValue::Communities(vec![0xffff_ff01, 64500 << 16 | 7]),
            AttributeValue::OriginatorId([192, 0, 2, 2].into()),
            AttributeValue::ClusterList(vec![[1, 2, 3, 4].into(), [5, 6, 7, 8].into()]),
            AttributeValue::ExtendedCommunities(vec![[0, 2, 0xfb, 0xf4, 0, 0, 0, 9]]),
            AttributeValue::LargeCommunities(vec![[211_396, 1, 2]]),
            AttributeValue::OnlyToCustomer(Asn(64500)),
            AttributeValue::Other {
                flags: 0xd0,
                kind: 250,
                value: vec![7, 7],
            },
        ];
        assert_eq!(attribute_values(&other.concat()), expected);
    }

    /// RFC 6793 section 4.2.3.
    #[test]
    fn the_true_aggregator_is_in_as4_aggregator() {
        let as4: &[u8] = &[0xc0, 18, 8, 0, 3, 0x39, 0xc4, 192, 0, 2, 1];
        let trans: &[u8] = &[0xc0, 7, 6, 0x5b, 0xa0, 192, 0, 2, 9];
        let expected = AttributeValue::Aggregator {
            asn: Asn(211_396),
            address: [192, 0, 2, 1].into(),
        };
        assert_eq!(attribute_values(&[trans, as4].concat()), [expected]);
    }
}
