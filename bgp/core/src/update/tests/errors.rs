//! What errors demand: RFC 7606, and what it left of RFC 4271 section 6.3.

use super::*;

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
    let cases: [(&str, &[&[u8]], u8); 19] = [
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
            "NEXT_HOP 127.0.0.1",
            &[ORIGIN, PATH, &[0x40, 3, 4, 127, 0, 0, 1]],
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
        let update = decode(&message, &CONTEXT).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"], "{name}");
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

/// RFC 7606 section 2: treat-as-withdraw is for all routes in the UPDATE, of all families and
/// fields.
#[test]
fn treat_as_withdraw_withdraws_every_route_in_the_message() {
    let bad: &[u8] = &[0x40, 1, 1, 3];
    let unreach: &[u8] = &[0x80, 15, 6, 0, 2, 1, 16, 0x20, 2];
    let message = body(&[8, 11], &[bad, PATH, HOP, unreach, REACH6], TEN);
    let update = decode(&message, &CONTEXT).unwrap();
    assert!(update.announced.is_empty());
    assert_eq!(
        strings(&update.withdrawn),
        ["11.0.0.0/8", "2002::/16", "10.0.0.0/8", "2001:db8::/32"]
    );
}

/// RFC 7606 section 5.2: without a reachable prefix, and with other attributes than
/// MP_UNREACH_NLRI, an error that is more than a discard resets the session.
#[test]
fn errors_in_a_message_without_reachable_prefixes() {
    let unreach: &[u8] = &[0x80, 15, 6, 0, 2, 1, 16, 0x20, 2];
    let wrong_flags: &[u8] = &[0xc0, 15, 6, 0, 2, 1, 16, 0x20, 2];
    let med: &[u8] = &[0x80, 4, 3, 0, 0, 0];
    let discard: &[u8] = &[0x40, 6, 1, 0];
    let subcode = |withdrawn: &[u8], attributes: &[&[u8]]| {
        decode(&body(withdrawn, attributes, &[]), &CONTEXT)
            .map(|update| strings(&update.withdrawn))
            .map_err(|fault| fault.subcode)
    };
    assert_eq!(subcode(&[], &[unreach, med]), Err(5));
    assert_eq!(subcode(TEN, &[med]), Err(5));
    assert_eq!(
        subcode(TEN, &[&[0x80]]),
        Err(5),
        "an overrun hides an attribute"
    );
    // Nothing but MP_UNREACH_NLRI: all that it can withdraw is withdrawn.
    assert_eq!(subcode(&[], &[wrong_flags]), Ok(vec!["2002::/16".into()]));
    assert_eq!(
        subcode(TEN, &[unreach, discard]),
        Ok(vec!["10.0.0.0/8".into(), "2002::/16".into()])
    );
}

/// RFC 7606 section 3 (j): routes that cannot be read cannot be withdrawn.
#[test]
fn an_mp_attribute_that_overruns_resets_the_session() {
    for kind in [14, 15] {
        let overrun: &[u8] = &[0x80, kind, 9, 0, 2, 1];
        let message = body(&[], &[ORIGIN, PATH, HOP, overrun], TEN);
        assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 9);
        let message = body(&[], &[ORIGIN, PATH, HOP, &[0x80, kind]], TEN);
        assert_eq!(decode(&message, &CONTEXT).unwrap_err().subcode, 9);
    }
}

/// RFC 4271 section 6.3, RFC 4760 section 7: what NOTIFICATION quotes.
#[test]
fn notifications_quote_what_was_wrong() {
    let quoted = |attributes: &[&[u8]], nlri: &[u8]| {
        let fault = decode(&body(&[], attributes, nlri), &CONTEXT).unwrap_err();
        (fault.subcode, fault.data)
    };
    let unknown: &[u8] = &[0x40, 99, 2, 1, 2];
    assert_eq!(
        quoted(&[ORIGIN, PATH, HOP, unknown], TEN),
        (2, unknown.to_vec())
    );
    let reach: &[u8] = &[0x80, 14, 2, 0, 2];
    assert_eq!(quoted(&[ORIGIN, PATH, reach], &[]), (9, reach.to_vec()));
    let origin: &[u8] = &[0x40, 1, 1, 9];
    assert_eq!(quoted(&[origin, PATH], &[]), (6, origin.to_vec()));
    let path: &[u8] = &[0x40, 2, 2, 2, 0];
    assert_eq!(quoted(&[ORIGIN, path], &[]), (11, vec![]), "AS_PATH is not");
}

/// The attribute that reset sessions across the Internet on 2025-05-20: BGP Prefix-SID (40)
/// with a broken value, from a speaker of another AS. It is not ours to understand: passed
/// over whatever it holds (RFC 4271 section 5, RFC 7606 section 3).
#[test]
fn attribute_40_whatever_it_holds() {
    for value in [&[][..], &[0], &[1, 0, 7], &[0; 300], &[0xff; 11]] {
        for flags in [0xc0, 0xe0, 0x80] {
            let sid = attribute(flags, 40, value);
            let update = decode(&body(&[], &[ORIGIN, PATH, HOP, &sid], TEN), &CONTEXT).unwrap();
            assert_eq!(strings(&update.announced[0].nlri), ["10.0.0.0/8"]);
            assert_eq!(update.announced[0].attributes.other, sid);
            assert!(update.errors.is_empty());
        }
    }
}

/// The attribute that reset sessions in October 2025: OTC whose extended-length bit is set
/// while the length has one octet, so that it reads 1024. An overrun: the route goes, the
/// session stays (RFC 7606 section 4).
#[test]
fn attribute_35_with_a_length_of_1024() {
    let otc: &[u8] = &[0xf0, 35, 4, 0, 0, 0xfb, 0xf4];
    let update = decode(&body(&[], &[ORIGIN, PATH, HOP, otc], TEN), &CONTEXT).unwrap();
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
    assert_eq!(levels(&update), [(0, ErrorLevel::TreatAsWithdraw)]);
    // With 1024 octets behind it: a length that OTC cannot have (RFC 9234 section 5).
    let otc = attribute(0xc0, 35, &[0; 1024]);
    let update = decode(&body(&[], &[ORIGIN, PATH, HOP, &otc], TEN), &CONTEXT).unwrap();
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
    assert_eq!(levels(&update), [(35, ErrorLevel::TreatAsWithdraw)]);
}

/// RFC 7606 section 3 (c), (g), section 4 (length zero), section 7; RFC 7607 section 2 (AS 0);
/// RFC 6793 section 6: what each malformed attribute demands. I: from the same AS, E: from
/// another, O: from one with two-octet AS numbers.
#[test]
fn what_each_malformed_attribute_demands() {
    use ErrorLevel::{Discard, TreatAsWithdraw};
    let internal = Context {
        internal: true,
        ..CONTEXT
    };
    let old = Context {
        four_octet_as: false,
        ..CONTEXT
    };
    let old_path: &[u8] = &[0x40, 2, 4, 2, 1, 0x5b, 0xa0];
    let cases: &[(char, &[u8], Option<ErrorLevel>)] = &[
        ('E', &[0x80, 4, 0], Some(TreatAsWithdraw)),
        ('E', &[0x80, 4, 5, 0, 0, 0, 0, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 4, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
        ('E', &[0xa0, 4, 4, 0, 0, 0, 0], None), // Partial is no such flag
        ('I', &[0x40, 5, 3, 0, 0, 0], Some(TreatAsWithdraw)),
        ('I', &[0x40, 5, 4, 0, 0, 0, 1], None),
        ('E', &[0x40, 5, 3, 0, 0, 0], Some(Discard)),
        ('E', &[0x40, 6, 0], None),
        ('E', &[0xc0, 6, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 7, 8, 0, 0, 0, 1, 192, 0, 2, 1], None),
        ('E', &[0xc0, 7, 0], Some(Discard)),
        ('E', &[0xc0, 7, 8, 0, 0, 0, 0, 192, 0, 2, 1], Some(Discard)),
        ('O', &[0xc0, 7, 8, 0, 0, 0, 1, 192, 0, 2, 1], Some(Discard)),
        ('O', &[0xc0, 7, 6, 0, 1, 192, 0, 2, 1], None),
        ('O', &[0xc0, 7, 6, 0, 0, 192, 0, 2, 1], Some(Discard)),
        ('E', &[0xc0, 8, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 8, 4, 0, 0, 0, 0], None),
        ('E', &[0x40, 8, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
        ('I', &[0x80, 9, 4, 0, 0, 0, 1], None),
        ('I', &[0x80, 9, 5, 0, 0, 0, 0, 1], Some(TreatAsWithdraw)),
        ('E', &[0x80, 9, 4, 0, 0, 0, 1], Some(Discard)),
        ('I', &[0x80, 10, 0], Some(TreatAsWithdraw)),
        ('I', &[0x80, 10, 5, 0, 0, 0, 0, 1], Some(TreatAsWithdraw)),
        ('I', &[0x80, 10, 4, 0, 0, 0, 1], None),
        ('E', &[0xc0, 16, 8, 0xff, 9, 9, 9, 9, 9, 9, 9], None),
        ('E', &[0xc0, 16, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 16, 0], Some(TreatAsWithdraw)),
        (
            'E',
            &[0xc0, 25, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            Some(TreatAsWithdraw),
        ),
        ('E', &[0xc0, 32, 4, 0, 0, 0, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 35, 4, 0, 0, 0, 1], None),
        ('E', &[0xc0, 35, 0], Some(TreatAsWithdraw)),
        ('E', &[0x80, 35, 4, 0, 0, 0, 1], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 128, 3, 0, 0, 0], Some(TreatAsWithdraw)),
        ('E', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9], Some(Discard)),
        ('E', &[0xc0, 18, 8, 0, 0, 0, 1, 192, 0, 2, 1], Some(Discard)),
        ('O', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 9], None),
        ('O', &[0xc0, 17, 0], Some(Discard)),
        ('O', &[0xc0, 17, 2, 2, 0], Some(Discard)),
        ('O', &[0xc0, 17, 6, 2, 1, 0, 0, 0, 0], Some(Discard)),
        ('O', &[0xc0, 18, 6, 0, 1, 192, 0, 2, 1], Some(Discard)),
        ('O', &[0xc0, 18, 8, 0, 0, 0, 0, 192, 0, 2, 1], Some(Discard)),
        ('E', &[0x80, 200, 0], None),
        ('E', &[0xc0, 255, 1, 9], None),
        ('E', ORIGIN, Some(Discard)), // twice
    ];
    for (from, tested, level) in cases {
        let (context, path) = match from {
            'I' => (internal, PATH),
            'O' => (old, old_path),
            _ => (CONTEXT, PATH),
        };
        let message = body(&[], &[ORIGIN, path, HOP, tested], TEN);
        let update = decode(&message, &context).unwrap();
        let found: Vec<_> = update.errors.iter().map(|error| error.level).collect();
        assert_eq!(found, Vec::from_iter(*level), "{from} {tested:?}");
        let withdrawn = *level == Some(TreatAsWithdraw);
        assert_eq!(update.announced.is_empty(), withdrawn, "{from} {tested:?}");
        assert_eq!(!update.withdrawn.is_empty(), withdrawn, "{from} {tested:?}");
    }
    for segment in [[0, 0, 0, 0], [0, 0, 0, 1]] {
        let path = [&[0x40, 2, 6, 2, 1], &segment[..]].concat();
        let update = decode(&body(&[], &[ORIGIN, &path, HOP], TEN), &CONTEXT).unwrap();
        assert_eq!(update.announced.is_empty(), segment == [0; 4], "AS 0");
    }
}

/// Errors without end cost a bounded number of texts, and the strongest is among them.
#[test]
fn errors_are_bounded() {
    let mut attributes = [ORIGIN, PATH, HOP].concat();
    for _ in 0..1000 {
        attributes.extend_from_slice(ORIGIN);
    }
    attributes.extend_from_slice(&[0x80, 4, 0]);
    let update = decode(&body(&[], &[&attributes], TEN), &CONTEXT).unwrap();
    assert_eq!(update.errors.len(), 16);
    assert_eq!(strings(&update.withdrawn), ["10.0.0.0/8"]);
    assert_eq!(levels(&update)[15], (4, ErrorLevel::TreatAsWithdraw));
}
