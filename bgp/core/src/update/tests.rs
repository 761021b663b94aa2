use events::Asn;

use super::*;
use crate::attributes::{ErrorLevel, Origin};

mod errors;

const CONTEXT: Context = Context {
    four_octet_as: true,
    internal: false,
    families: Families::BOTH,
    add_path: Families::NONE,
    extended_next_hop: false,
    otc: None,
};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 3, 0x39, 0xc4];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const TEN: &[u8] = &[8, 10];
/// 2001:db8::/32 with next hop 2001:db8::1.
const REACH6: &[u8] = &[
    0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32, 0x20,
    1, 0xd, 0xb8,
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

fn strings(prefixes: &[Nlri]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[flags | 0x10, kind, high, low][..], value].concat()
}

fn levels(update: &Update) -> Vec<(u8, ErrorLevel)> {
    let level = |error: &AttributeError| (error.attribute, error.level);
    update.errors.iter().map(level).collect()
}

#[test]
fn both_families_in_one_message() {
    let body = body(&[8, 11], &[ORIGIN, PATH, HOP, REACH6], TEN);
    let update = decode(&body, &CONTEXT).unwrap();
    assert_eq!(strings(&update.withdrawn), ["11.0.0.0/8"]);
    let [v4, v6] = &update.announced[..] else {
        panic!("{update:?}");
    };
    assert_eq!(strings(&v4.nlri), ["10.0.0.0/8"]);
    assert_eq!(v4.attributes.next_hop.to_string(), "192.0.2.1");
    assert_eq!(v4.attributes.as_path.flat(), [Asn(211_396)]);
    assert_eq!(v4.attributes.origin, Origin::Igp);
    assert_eq!(strings(&v6.nlri), ["2001:db8::/32"]);
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
    assert_eq!(strings(&update.announced[0].nlri), expected);
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
    assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
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
    assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
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
    // RFC 6793 section 4.2.3: both AGGREGATOR (not AS_TRANS) and AS4_AGGREGATOR: an old speaker
    // aggregated later, and both AS4 attributes are void.
    let aggregator: &[u8] = &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1];
    let as4_aggregator: &[u8] = &[0xc0, 18, 8, 0, 3, 0x39, 0xc4, 192, 0, 2, 1];
    assert_eq!(
        flat(&[ORIGIN, path, HOP, aggregator, as4_aggregator, as4]),
        [Asn(10), Asn(23456)]
    );
    // AGGREGATOR alone says nothing about AS4_PATH.
    assert_eq!(
        flat(&[ORIGIN, path, HOP, aggregator, as4]),
        [Asn(10), Asn(211_396)]
    );
    let trans: &[u8] = &[0xc0, 7, 6, 0x5b, 0xa0, 192, 0, 2, 1];
    assert_eq!(
        flat(&[ORIGIN, path, HOP, trans, as4_aggregator, as4]),
        [Asn(10), Asn(211_396)]
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

/// RFC 7911 section 3: path identifiers are there exactly for the families for which they were
/// negotiated, in all of an UPDATE's fields.
#[test]
fn add_path_is_by_family_and_never_a_guess() {
    let only = |ipv4, ipv6| Context {
        add_path: Families { ipv4, ipv6 },
        ..CONTEXT
    };
    // As ADD-PATH: path 7 to 10/8. As plain NLRI: three default routes, then 10.0.0.0/7.
    let ipv4 = [0, 0, 0, 7, 8, 10];
    let hop6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let reach6 = [&[0, 2, 1, 16], &hop6[..], &[0], &[0, 0, 0, 9, 16, 0x20, 1]].concat();
    let reach6 = attribute(0x80, 14, &reach6);
    let message = body(&ipv4, &[ORIGIN, PATH, HOP, &reach6], &[0, 0, 0, 8, 8, 11]);
    let update = decode(&message, &only(true, true)).unwrap();
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 7"]);
    assert_eq!(strings(&update.announced[0].nlri), ["11.0.0.0/8 path 8"]);
    assert_eq!(strings(&update.announced[1].nlri), ["2001::/16 path 9"]);
    let plain6 = [&[0, 2, 1, 16], &hop6[..], &[0], &[16, 0x20, 1]].concat();
    let plain6 = attribute(0x80, 14, &plain6);
    let message = body(&ipv4, &[ORIGIN, PATH, &plain6], &[]);
    let update = decode(&message, &only(true, false)).unwrap();
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 7"]);
    assert_eq!(strings(&update.announced[0].nlri), ["2001::/16"]);
    let unreach = attribute(0x80, 15, &[0, 2, 1, 0, 0, 0, 9, 16, 0x20, 1]);
    let message = body(&[8, 10], &[&unreach], &[]);
    let update = decode(&message, &only(false, true)).unwrap();
    assert_eq!(
        strings(&update.withdrawn),
        ["10.0.0.0/8", "2001::/16 path 9"]
    );
    let message = body(&ipv4, &[], &[]);
    let update = decode(&message, &only(false, true)).unwrap_err();
    assert_eq!(update.subcode, 10, "10 bits of prefix, and no octet left");
    let update = decode(&body(&[0, 0, 0, 7, 10], &[], &[]), &CONTEXT).unwrap();
    assert_eq!(
        strings(&update.withdrawn),
        ["0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "10.0.0.0/7"]
    );
    // The same prefix by another path is another route (RFC 7911 section 2).
    let message = body(
        &[0, 0, 0, 1, 8, 10, 0, 0, 0, 2, 8, 10],
        &[ORIGIN, PATH, HOP],
        &[0, 0, 0, 2, 8, 10],
    );
    let update = decode(&message, &only(true, false)).unwrap();
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8 path 1"]);
}

/// RFC 8950 section 3: 16 or 32 octets for IPv4 prefixes, where that is agreed. RFC 2545
/// section 3: a link-local address may follow the global one. RFC 7606 section 7.11: any
/// other length resets the session.
#[test]
fn next_hops_of_mp_reach() {
    let global = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let both = [global, local].concat();
    let unspecified = [[0; 16], local].concat();
    let extended = Context {
        extended_next_hop: true,
        ..CONTEXT
    };
    let read = |afi: u8, hop: &[u8], context: &Context| {
        let length = u8::try_from(hop.len()).unwrap();
        let value = [&[0, afi, 1, length], hop, &[0, 8, 10]].concat();
        let message = body(&[], &[ORIGIN, PATH, &attribute(0x80, 14, &value)], &[]);
        let update = decode(&message, context).map_err(|fault| fault.subcode)?;
        let attributes = &update.announced[0].attributes;
        let packed = attributes.pack();
        assert_eq!(Attributes::unpack(&packed).as_ref(), Some(attributes));
        let local = attributes.link_local.map(|address| address.to_string());
        Ok((attributes.next_hop.to_string(), local))
    };
    let one = |address: &str| Ok((address.to_owned(), None));
    let two = Ok(("2001:db8::1".to_owned(), Some("fe80::2".to_owned())));
    assert_eq!(read(1, &[192, 0, 2, 1], &CONTEXT), one("192.0.2.1"));
    assert_eq!(read(1, &global, &extended), one("2001:db8::1"));
    assert_eq!(read(1, &both, &extended), two);
    assert_eq!(read(1, &global, &CONTEXT), Err(9), "not agreed");
    assert_eq!(read(2, &global, &CONTEXT), one("2001:db8::1"));
    assert_eq!(read(2, &both, &CONTEXT), two);
    assert_eq!(read(2, &local, &CONTEXT), one("fe80::2"));
    assert_eq!(read(2, &unspecified, &CONTEXT), one("fe80::2"));
    for (afi, length) in [(1, 0), (1, 8), (1, 12), (2, 0), (2, 4), (2, 24), (2, 48)] {
        assert_eq!(
            read(afi, &vec![9; length], &extended),
            Err(9),
            "{afi} {length}"
        );
    }
}

/// RFC 4760 section 3: NEXT_HOP is ignored where MP_REACH_NLRI has all the prefixes.
#[test]
fn a_next_hop_that_nothing_uses_may_be_nonsense() {
    let nonsense: &[u8] = &[0x40, 3, 4, 0, 0, 0, 0];
    let update = decode(&body(&[], &[ORIGIN, PATH, nonsense, REACH6], &[]), &CONTEXT).unwrap();
    assert_eq!(strings(&update.announced[0].nlri), ["2001:db8::/32"]);
    assert!(update.errors.is_empty());
}

/// RFC 9234 section 5: a leak is ineligible, and where OTC is missing it is added.
#[test]
fn only_to_customer() {
    use crate::role::Role;
    let from = |neighbor_role| Context {
        otc: Some(OtcRule {
            neighbor_role,
            neighbor_as: Asn(64500),
        }),
        ..CONTEXT
    };
    let otc: &[u8] = &[0xc0, 35, 4, 0, 0, 0xfb, 0xf5];
    let med: &[u8] = &[0x80, 4, 4, 0, 0, 0, 1];
    let read = |attributes: &[&[u8]], role| {
        let message = body(&[], attributes, TEN);
        let update = decode(&message, &from(role)).unwrap();
        update.announced.into_iter().next().unwrap()
    };
    let leak = read(&[ORIGIN, PATH, HOP, otc], Role::Customer).ineligible;
    assert_eq!(leak.map(|leak| leak.otc), Some(Asn(64501)));
    let route = read(&[ORIGIN, PATH, HOP, otc, med], Role::Provider);
    assert_eq!(route.ineligible, None);
    assert_eq!(route.attributes.other, [otc, med].concat());
    let route = read(&[ORIGIN, PATH, HOP, med], Role::Peer);
    assert_eq!(route.ineligible, None);
    let added: &[u8] = &[0xc0, 35, 4, 0, 0, 0xfb, 0xf4];
    assert_eq!(route.attributes.other, [med, added].concat());
}

/// A family that was not negotiated is passed over, whatever its NLRI holds: it cannot be told
/// whether that has path identifiers.
#[test]
fn foreign_families_never_reset_the_session() {
    let context = Context {
        families: Families {
            ipv4: true,
            ipv6: false,
        },
        ..CONTEXT
    };
    let labelled = attribute(0x80, 14, &[0, 1, 4, 4, 1, 2, 3, 4, 0, 255, 255]);
    let ipv6 = attribute(0x80, 14, &[0, 2, 1, 3, 1, 2, 3, 0, 255]);
    let unreach = attribute(0x80, 15, &[0, 2, 1, 255]);
    for foreign in [&labelled, &ipv6] {
        let message = body(&[8, 11], &[ORIGIN, PATH, foreign, &unreach], &[]);
        let update = decode(&message, &context).unwrap();
        assert_eq!(strings(&update.withdrawn), ["11.0.0.0/8"]);
        assert!(update.announced.is_empty() && update.errors.is_empty());
    }
}

/// The compact form without the detour is the same, so that equal attributes share their
/// bytes whichever way they came.
#[test]
fn a_view_packs_as_the_decoded_attributes_do() {
    let old = Context {
        four_octet_as: false,
        ..CONTEXT
    };
    let old_path: &[u8] = &[0x40, 2, 8, 2, 1, 0x5b, 0xa0, 1, 1, 0, 7];
    let med: &[u8] = &[0x80, 4, 4, 0, 0, 0, 1];
    let discarded: &[u8] = &[0x40, 6, 1, 0];
    for (context, path) in [(CONTEXT, PATH), (old, old_path)] {
        let attributes = &[med, ORIGIN, path, discarded, HOP, med, REACH6];
        let message = body(&[], attributes, TEN);
        let view = view(&message, &context).unwrap();
        let update = view.to_update();
        assert_eq!(update.announced.len(), 2);
        for (view, announcement) in view.announced().zip(&update.announced) {
            let mut packed = Vec::new();
            view.pack_into(&mut packed);
            assert_eq!(packed, announcement.attributes.pack());
            assert_eq!(
                Attributes::unpack(&packed).as_ref(),
                Some(&announcement.attributes)
            );
            assert_eq!(announcement.attributes.other, med);
        }
    }
}
