//! UPDATE (RFC 4271 section 4.3) with MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use events::Prefix;
use serde::{Deserialize, Serialize};

use crate::attributes::{
    self, AttributeError, Attributes, ErrorLevel, Walked, is_host, kind, subcode,
};
use crate::fault::{Fault, code};
use crate::nlri::{self, Families, Family};

/// What was negotiated, as far as an UPDATE's meaning depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// AS numbers take four octets.
    pub four_octet_as: bool,
    /// The neighbour is in our AS.
    pub internal: bool,
    /// Families of the session; others are passed over.
    pub families: Families,
}

/// Routes that share their attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Their attributes.
    pub attributes: Attributes,
    /// Their prefixes.
    pub prefixes: Vec<Prefix>,
}

/// What an UPDATE does. No prefix is both withdrawn and announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Prefixes withdrawn, those "treated as withdrawn" among them.
    pub withdrawn: Vec<Prefix>,
    /// Routes announced or replaced: at most one entry per family and form.
    pub announced: Vec<Announcement>,
    /// It is an End-of-RIB marker (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// Errors that did not end the session, in the order found.
    pub errors: Vec<AttributeError>,
}

/// Decodes the body of an UPDATE.
///
/// # Errors
/// An UPDATE Message Error (RFC 4271 section 6.3) where RFC 7606 still demands a session reset:
/// lengths that contradict each other, prefixes or MP attributes that cannot be decoded, an MP
/// attribute that appears twice, a well-known attribute that is not known, and an attribute error
/// in a message without a reachable prefix.
pub fn decode(body: &[u8], context: &Context) -> Result<Update, Fault> {
    let lengths = || {
        Fault::new(
            code::UPDATE,
            subcode::ATTRIBUTE_LIST,
            "the lengths in the UPDATE exceed the message",
        )
    };
    let (withdrawn, rest) = counted(body).ok_or_else(lengths)?;
    let (attributes, announced) = counted(rest).ok_or_else(lengths)?;
    let network = |what: &str| {
        let what = what.to_owned();
        move |error| Fault::new(code::UPDATE, subcode::NETWORK, format!("{what}: {error}"))
    };
    let withdrawn_v4 =
        nlri::decode(Family::Ipv4, withdrawn).map_err(network("withdrawn routes"))?;
    let announced_v4 = nlri::decode(Family::Ipv4, announced).map_err(network("NLRI"))?;
    if body == [0, 0, 0, 0] {
        return Ok(Update {
            end_of_rib: context.families.ipv4.then_some(Family::Ipv4),
            ..Update::default()
        });
    }

    let mut walked = attributes::walk(attributes, context);
    let unreach = walked.mp_unreach.map(mp_unreach).transpose()?;
    let reach = walked.mp_reach.map(mp_reach).transpose()?;
    let only_unreach = withdrawn.is_empty()
        && announced.is_empty()
        && walked.seen == [kind::MP_UNREACH]
        && walked.errors.is_empty();
    if let Some((Some(family), prefixes)) = &unreach
        && only_unreach
        && prefixes.is_empty()
    {
        return Ok(Update {
            end_of_rib: context.families.contains(*family).then_some(*family),
            ..Update::default()
        });
    }

    let reachable = !announced_v4.is_empty() || reach.as_ref().is_some_and(|reach| reach.has_nlri);
    if reachable {
        check_mandatory(&mut walked, &announced_v4, reach.as_ref());
    }
    let worst = walked.errors.iter().map(|error| error.level).max();
    // RFC 7606 section 5.2: the attribute in error may have been the one that held the prefixes.
    if worst == Some(ErrorLevel::Reset)
        || (worst == Some(ErrorLevel::TreatAsWithdraw) && !reachable)
    {
        return Err(reset(&walked));
    }

    let mut update = Update {
        withdrawn: withdrawn_v4,
        ..Update::default()
    };
    if let Some((Some(_), prefixes)) = unreach {
        update.withdrawn.extend(prefixes);
    }
    let reach = reach.filter(|reach| reach.family.is_some());
    if worst == Some(ErrorLevel::TreatAsWithdraw) {
        update.withdrawn.extend(announced_v4);
        update
            .withdrawn
            .extend(reach.into_iter().flat_map(|reach| reach.prefixes));
    } else {
        let next_hop = walked.next_hop.map(IpAddr::V4);
        announce(&mut update, &walked, next_hop, announced_v4);
        if let Some(reach) = reach {
            announce(&mut update, &walked, Some(reach.next_hop), reach.prefixes);
        }
    }
    update.errors = walked.errors;
    keep_negotiated(&mut update, context.families);
    Ok(update)
}

fn announce(
    update: &mut Update,
    walked: &Walked<'_>,
    next_hop: Option<IpAddr>,
    prefixes: Vec<Prefix>,
) {
    let (Some(origin), Some(as_path), Some(next_hop)) =
        (walked.origin, walked.as_path.clone(), next_hop)
    else {
        return;
    };
    if !prefixes.is_empty() {
        update.announced.push(Announcement {
            attributes: Attributes {
                origin,
                as_path,
                next_hop,
                other: walked.other.clone(),
            },
            prefixes,
        });
    }
}

/// Drops families that were not negotiated, and withdrawals of what is announced in the same
/// message (RFC 4271 section 4.3: they count as not there).
fn keep_negotiated(update: &mut Update, families: Families) {
    let negotiated = |prefix: &Prefix| families.contains(Family::of_prefix(prefix));
    update.withdrawn.retain(negotiated);
    for announcement in &mut update.announced {
        announcement.prefixes.retain(negotiated);
    }
    update
        .announced
        .retain(|announcement| !announcement.prefixes.is_empty());
    if !update.withdrawn.is_empty() && !update.announced.is_empty() {
        let announced: BTreeSet<Prefix> = update
            .announced
            .iter()
            .flat_map(|announcement| announcement.prefixes.iter().copied())
            .collect();
        update
            .withdrawn
            .retain(|prefix| !announced.contains(prefix));
    }
}

fn check_mandatory(walked: &mut Walked<'_>, announced_v4: &[Prefix], reach: Option<&Reach>) {
    let mut mandatory = vec![kind::ORIGIN, kind::AS_PATH];
    if !announced_v4.is_empty() {
        mandatory.push(kind::NEXT_HOP);
    }
    for attribute in mandatory {
        if !walked.seen.contains(&attribute) {
            walked.error(
                attribute,
                ErrorLevel::TreatAsWithdraw,
                subcode::MISSING_WELL_KNOWN,
                "is mandatory and missing",
            );
        }
    }
    if let Some(reach) = reach
        && reach.family.is_some()
        && !is_host(reach.next_hop)
    {
        walked.error(
            kind::MP_REACH,
            ErrorLevel::TreatAsWithdraw,
            subcode::OPTIONAL,
            format!("next hop {} is no host's address", reach.next_hop),
        );
    }
}

fn reset(walked: &Walked<'_>) -> Fault {
    let strongest = walked.errors.iter().rev().max_by_key(|error| error.level);
    match strongest {
        Some(error) => Fault::new(code::UPDATE, error.subcode, format!("UPDATE: {error}")),
        None => Fault::new(code::UPDATE, 0, "UPDATE"),
    }
}

/// A field behind its two-octet length, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// MP_REACH_NLRI. `family` is `None` for a family that we do not speak.
struct Reach {
    family: Option<Family>,
    next_hop: IpAddr,
    prefixes: Vec<Prefix>,
    has_nlri: bool,
}

fn mp_reach(value: &[u8]) -> Result<Reach, Fault> {
    let fault = |text: String| {
        Fault::new(
            code::UPDATE,
            subcode::OPTIONAL,
            format!("MP_REACH_NLRI: {text}"),
        )
    };
    let cut = || fault("it is cut off".to_owned());
    let (&[afi_high, afi_low, safi, length], rest) =
        value.split_first_chunk::<4>().ok_or_else(cut)?;
    let (hop, rest) = rest.split_at_checked(length.into()).ok_or_else(cut)?;
    let (_reserved, bytes) = rest.split_first().ok_or_else(cut)?;
    let family = Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi);
    let Some(family) = family else {
        return Ok(Reach {
            family: None,
            next_hop: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            prefixes: Vec::new(),
            has_nlri: !bytes.is_empty(),
        });
    };
    let global = hop.first_chunk::<16>();
    let next_hop = match (family, hop.len(), global) {
        (Family::Ipv4, 4, _) => <[u8; 4]>::try_from(hop).map(IpAddr::from).ok(),
        // A link-local address may follow the global one (RFC 2545 section 3, RFC 8950).
        (_, 16 | 32, Some(octets)) => Some(IpAddr::from(*octets)),
        _ => None,
    }
    .ok_or_else(|| fault(format!("a next hop of {length} octets is impossible")))?;
    let prefixes = nlri::decode(family, bytes).map_err(|error| fault(error.to_string()))?;
    Ok(Reach {
        family: Some(family),
        next_hop,
        has_nlri: !prefixes.is_empty(),
        prefixes,
    })
}

fn mp_unreach(value: &[u8]) -> Result<(Option<Family>, Vec<Prefix>), Fault> {
    let fault = |text: String| {
        Fault::new(
            code::UPDATE,
            subcode::OPTIONAL,
            format!("MP_UNREACH_NLRI: {text}"),
        )
    };
    let (&[afi_high, afi_low, safi], bytes) = value
        .split_first_chunk::<3>()
        .ok_or_else(|| fault("it is cut off".to_owned()))?;
    match Family::from_wire(u16::from_be_bytes([afi_high, afi_low]), safi) {
        Some(family) => {
            let prefixes = nlri::decode(family, bytes).map_err(|error| fault(error.to_string()))?;
            Ok((Some(family), prefixes))
        }
        None => Ok((None, Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Origin;
    use events::Asn;

    const CONTEXT: Context = Context {
        four_octet_as: true,
        internal: false,
        families: Families::BOTH,
    };

    const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
    const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 3, 0x39, 0xc4];
    const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
    const TEN: &[u8] = &[8, 10];
    /// 2001:db8::/32 with next hop 2001:db8::1.
    const REACH6: &[u8] = &[
        0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32,
        0x20, 1, 0xd, 0xb8,
    ];

    fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
        let attributes = attributes.concat();
        let mut body = u16::try_from(withdrawn.len())
            .unwrap()
            .to_be_bytes()
            .to_vec();
        body.extend_from_slice(withdrawn);
        body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        body.extend_from_slice(&attributes);
        body.extend_from_slice(nlri);
        body
    }

    fn strings(prefixes: &[Prefix]) -> Vec<String> {
        prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn both_families_in_one_message() {
        let body = body(&[8, 11], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let update = decode(&body, &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), ["11.0.0.0/8"]);
        let [v4, v6] = &update.announced[..] else {
            panic!("{update:?}");
        };
        assert_eq!(strings(&v4.prefixes), ["10.0.0.0/8"]);
        assert_eq!(v4.attributes.next_hop.to_string(), "192.0.2.1");
        assert_eq!(v4.attributes.as_path.flat(), [Asn(211_396)]);
        assert_eq!(v4.attributes.origin, Origin::Igp);
        assert_eq!(strings(&v6.prefixes), ["2001:db8::/32"]);
        assert_eq!(v6.attributes.next_hop.to_string(), "2001:db8::1");
        for announcement in &update.announced {
            let packed = announcement.attributes.pack();
            assert_eq!(
                Attributes::unpack(&packed).as_ref(),
                Some(&announcement.attributes)
            );
        }
    }

    #[test]
    fn the_default_route_packed_first() {
        let nlri = [0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
        let expected = [
            "0.0.0.0/0",
            "10.0.1.0/24",
            "10.0.2.0/24",
            "10.0.3.0/24",
            "10.9.0.0/16",
        ];
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP], &nlri), &CONTEXT).unwrap();
        assert_eq!(strings(&update.announced[0].prefixes), expected);
        let update = decode(&body(&nlri, &[], &[]), &CONTEXT).unwrap();
        assert_eq!(strings(&update.withdrawn), expected);
        assert_eq!(update.end_of_rib, None);
    }

    #[test]
    fn end_of_rib_markers_and_what_only_looks_like_one() {
        let unreach6: &[u8] = &[0x80, 15, 3, 0, 2, 1];
        let unreach_labeled: &[u8] = &[0x80, 15, 3, 0, 2, 4];
        let end = |body: &[u8]| decode(body, &CONTEXT).unwrap().end_of_rib;
        assert_eq!(end(&body(&[], &[], &[])), Some(Family::Ipv4));
        assert_eq!(end(&body(&[], &[unreach6], &[])), Some(Family::Ipv6));
        assert_eq!(end(&body(&[], &[unreach_labeled], &[])), None);
        assert_eq!(end(&body(&[8, 10], &[unreach6], &[])), None);
        assert_eq!(end(&body(&[], &[ORIGIN, unreach6], &[])), None);
        let only_v4 = Context {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..CONTEXT
        };
        let update = decode(&body(&[], &[unreach6], &[]), &only_v4).unwrap();
        assert_eq!(update.end_of_rib, None);
    }

    #[test]
    fn a_prefix_withdrawn_and_announced_is_announced() {
        let update = decode(&body(TEN, &[ORIGIN, PATH, HOP], TEN), &CONTEXT).unwrap();
        assert!(update.withdrawn.is_empty());
        assert_eq!(strings(&update.announced[0].prefixes), ["10.0.0.0/8"]);
    }

    #[test]
    fn families_that_were_not_negotiated_are_passed_over() {
        let context = Context {
            families: Families {
                ipv4: true,
                ipv6: false,
            },
            ..CONTEXT
        };
        let message = body(&[], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let update = decode(&message, &context).unwrap();
        assert_eq!(update.announced.len(), 1);
        assert_eq!(strings(&update.announced[0].prefixes), ["10.0.0.0/8"]);
    }

    /// What the session does not survive: RFC 4271 section 6.3 where RFC 7606 left it.
    #[test]
    fn resets() {
        let reach = |value: &[u8]| -> Vec<u8> {
            let length = u8::try_from(value.len()).unwrap();
            [&[0x80, 14, length][..], value].concat()
        };
        let short_hop = reach(&[0, 2, 1, 15, 0, 0, 0]);
        let wrong_hop = reach(&[&[0, 2, 1, 4, 192, 0, 2, 1, 0][..], &[0]].concat());
        let long_prefix = reach(&[&[0, 2, 1, 16][..], &[0x20; 16], &[0, 129]].concat());
        let empty = reach(&[0, 2]);
        let bad_origin: &[u8] = &[0x40, 1, 1, 9];
        let cases: [(&str, Vec<u8>, u8); 15] = [
            ("withdrawn length beyond the message", vec![0, 9, 0, 0], 1),
            ("attribute length beyond the message", vec![0, 0, 0, 9], 1),
            ("no attribute length", vec![0, 0, 0], 1),
            (
                "withdrawn prefix of length 33",
                body(&[33, 1, 2, 3, 4, 5], &[], &[]),
                10,
            ),
            ("withdrawn prefix cut off", body(&[24, 10], &[], &[]), 10),
            (
                "NLRI of length 33",
                body(&[], &[ORIGIN, PATH, HOP], &[33, 1, 2, 3, 4, 5]),
                10,
            ),
            (
                "NLRI cut off",
                body(&[], &[ORIGIN, PATH, HOP], &[24, 10]),
                10,
            ),
            (
                "MP_REACH: next hop cut off",
                body(&[], &[ORIGIN, PATH, &short_hop], &[]),
                9,
            ),
            (
                "MP_REACH: IPv4 next hop for IPv6",
                body(&[], &[ORIGIN, PATH, &wrong_hop], &[]),
                9,
            ),
            (
                "MP_REACH: prefix too long",
                body(&[], &[ORIGIN, PATH, &long_prefix], &[]),
                9,
            ),
            (
                "MP_REACH: two octets",
                body(&[], &[ORIGIN, PATH, &empty], &[]),
                9,
            ),
            (
                "MP_UNREACH: prefix cut off",
                body(&[], &[&[0x80, 15, 5, 0, 2, 1, 32, 1]], &[]),
                9,
            ),
            (
                "MP_REACH twice",
                body(&[], &[ORIGIN, PATH, REACH6, REACH6], &[]),
                1,
            ),
            (
                "unknown well-known attribute",
                body(&[], &[ORIGIN, PATH, HOP, &[0x40, 99, 0]], TEN),
                2,
            ),
            (
                "an error and no prefix",
                body(&[], &[bad_origin, PATH], &[]),
                6,
            ),
        ];
        for (name, bytes, subcode) in cases {
            let fault = decode(&bytes, &CONTEXT).expect_err(name);
            assert_eq!((fault.code, fault.subcode), (3, subcode), "{name}: {fault}");
        }
    }

    /// RFC 7606: the route is gone, the session stays.
    #[test]
    fn treated_as_withdrawn() {
        let cases: [(&str, &[&[u8]], u8); 18] = [
            (
                "attribute overrun",
                &[ORIGIN, PATH, HOP, &[0x80, 4, 9, 0]],
                0,
            ),
            ("trailing attribute byte", &[ORIGIN, PATH, HOP, &[0x80]], 0),
            ("ORIGIN 3", &[&[0x40, 1, 1, 3], PATH, HOP], 1),
            ("ORIGIN of length 2", &[&[0x40, 1, 2, 0, 0], PATH, HOP], 1),
            ("ORIGIN optional", &[&[0xc0, 1, 1, 0], PATH, HOP], 1),
            ("ORIGIN missing", &[PATH, HOP], 1),
            ("AS_PATH missing", &[ORIGIN, HOP], 2),
            ("AS_PATH count 0", &[ORIGIN, &[0x40, 2, 2, 2, 0], HOP], 2),
            (
                "AS_PATH cut off",
                &[ORIGIN, &[0x40, 2, 4, 2, 1, 0, 1], HOP],
                2,
            ),
            (
                "AS_PATH type 9",
                &[ORIGIN, &[0x40, 2, 6, 9, 1, 0, 0, 0, 1], HOP],
                2,
            ),
            (
                "confederation from outside",
                &[ORIGIN, &[0x40, 2, 6, 3, 1, 0, 0, 0, 1], HOP],
                2,
            ),
            ("NEXT_HOP missing", &[ORIGIN, PATH], 3),
            (
                "NEXT_HOP of length 5",
                &[ORIGIN, PATH, &[0x40, 3, 5, 1, 2, 3, 4, 5]],
                3,
            ),
            (
                "NEXT_HOP 0.0.0.0",
                &[ORIGIN, PATH, &[0x40, 3, 4, 0, 0, 0, 0]],
                3,
            ),
            (
                "MED of length 3",
                &[ORIGIN, PATH, HOP, &[0x80, 4, 3, 0, 0, 0]],
                4,
            ),
            (
                "COMMUNITIES of length 3",
                &[ORIGIN, PATH, HOP, &[0xc0, 8, 3, 0, 0, 0]],
                8,
            ),
            (
                "large communities, empty",
                &[ORIGIN, PATH, HOP, &[0xc0, 32, 0]],
                32,
            ),
            (
                "OTC of length 2",
                &[ORIGIN, PATH, HOP, &[0xc0, 35, 2, 0, 0]],
                35,
            ),
        ];
        for (name, attributes, attribute) in cases {
            let update = decode(&body(&[8, 11], attributes, TEN), &CONTEXT)
                .unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(
                strings(&update.withdrawn),
                ["11.0.0.0/8", "10.0.0.0/8"],
                "{name}"
            );
            assert!(update.announced.is_empty(), "{name}");
            let worst = update
                .errors
                .iter()
                .max_by_key(|error| error.level)
                .unwrap();
            assert_eq!(
                (worst.attribute, worst.level),
                (attribute, ErrorLevel::TreatAsWithdraw),
                "{name}"
            );
        }
        let bad_v6 = decode(&body(&[], &[&[0x40, 1, 1, 3], PATH, REACH6], &[]), &CONTEXT).unwrap();
        assert_eq!(strings(&bad_v6.withdrawn), ["2001:db8::/32"]);
    }

    #[test]
    fn discarded_attributes_leave_the_route() {
        let cases: [(&str, &[u8], u8); 6] = [
            ("ATOMIC_AGGREGATE with a value", &[0x40, 6, 1, 0], 6),
            (
                "AGGREGATOR of length 6",
                &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1],
                7,
            ),
            ("LOCAL_PREF from outside", &[0x40, 5, 4, 0, 0, 0, 100], 5),
            ("CLUSTER_LIST from outside", &[0x80, 10, 4, 1, 2, 3, 4], 10),
            (
                "AS4_PATH from a new speaker",
                &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9],
                17,
            ),
            ("second ORIGIN", &[0x40, 1, 1, 2], 1),
        ];
        for (name, extra, attribute) in cases {
            let message = body(&[], &[ORIGIN, PATH, HOP, extra], TEN);
            let update =
                decode(&message, &CONTEXT).unwrap_or_else(|fault| panic!("{name}: {fault}"));
            assert_eq!(
                strings(&update.announced[0].prefixes),
                ["10.0.0.0/8"],
                "{name}"
            );
            assert_eq!(update.announced[0].attributes.origin, Origin::Igp);
            assert!(update.announced[0].attributes.other.is_empty(), "{name}");
            assert_eq!(
                (update.errors[0].attribute, update.errors[0].level),
                (attribute, ErrorLevel::Discard),
                "{name}"
            );
        }
    }

    #[test]
    fn the_strongest_error_wins() {
        let discard: &[u8] = &[0x40, 6, 1, 0];
        let withdraw: &[u8] = &[0x80, 4, 3, 0, 0, 0];
        let reset: &[u8] = &[0x40, 99, 0];
        let update = decode(
            &body(&[], &[ORIGIN, PATH, HOP, discard, withdraw], TEN),
            &CONTEXT,
        )
        .unwrap();
        assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
        assert_eq!(update.errors.len(), 2);
        let message = body(&[], &[ORIGIN, PATH, HOP, reset, withdraw, discard], TEN);
        assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 2);
    }

    #[test]
    fn unknown_optional_attributes_are_kept_as_they_came() {
        let unknown: &[u8] = &[0xd0, 250, 0, 2, 7, 7];
        let update = decode(&body(&[], &[ORIGIN, PATH, HOP, unknown], TEN), &CONTEXT).unwrap();
        assert_eq!(update.announced[0].attributes.other, unknown);
        assert!(update.errors.is_empty());
    }

    #[test]
    fn an_old_speaker_says_23456_and_as4_path_the_truth() {
        let old = Context {
            four_octet_as: false,
            ..CONTEXT
        };
        let path: &[u8] = &[0x40, 2, 6, 2, 2, 0, 10, 0x5b, 0xa0];
        let as4: &[u8] = &[0xc0, 17, 6, 2, 1, 0, 3, 0x39, 0xc4];
        let flat = |attributes: &[&[u8]]| {
            let update = decode(&body(&[], attributes, TEN), &old).unwrap();
            update.announced[0].attributes.as_path.flat()
        };
        assert_eq!(flat(&[ORIGIN, path, HOP, as4]), [Asn(10), Asn(211_396)]);
        // An AGGREGATOR that is not AS_TRANS: an old speaker aggregated later.
        let aggregator: &[u8] = &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1];
        assert_eq!(
            flat(&[ORIGIN, path, HOP, aggregator, as4]),
            [Asn(10), Asn(23456)]
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        // A small generator of its own (xorshift), so that the run is the same everywhere.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let good = body(&[8, 11], &[ORIGIN, PATH, HOP, REACH6], TEN);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let mut bytes = good.clone();
            for _ in 0..=next() % 4 {
                let index = usize::try_from(next()).unwrap() % bytes.len();
                bytes[index] = next().to_le_bytes()[0];
            }
            let length = usize::try_from(next()).unwrap() % (bytes.len() * 2);
            bytes.truncate(length.max(4));
            match decode(&bytes, &CONTEXT) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
    }
}
