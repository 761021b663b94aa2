//! MRT records and RIS Live lines, byte by byte.

use bgp_core::mrt::{MrtContent, MrtFramer, MrtReader, MrtRecord};
use bgp_core::ris::{self, RisMessage};
use bgp_core::{MessageType, attribute_values, decode_update};

fn record(kind: u8, subtype: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let header = [0x56, 0x8e, 0x53, 0xab, 0, kind, 0, subtype];
    [&header[..], &length, &body].concat()
}

fn records(bytes: &[u8]) -> Vec<MrtRecord> {
    let mut framer = MrtFramer::default();
    framer.push(bytes);
    let records = std::iter::from_fn(|| framer.next_record().unwrap()).collect();
    framer.finish().unwrap();
    records
}

/// A collector's peers: 192.0.2.1 of AS 64500 and 2001:db8::1 of AS 4200000000.
fn peers() -> Vec<u8> {
    let v6 = [
        &[3, 192, 0, 2, 2, 0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[1],
        &4_200_000_000_u32.to_be_bytes(),
    ];
    let v4: &[u8] = &[0, 192, 0, 2, 1, 192, 0, 2, 1, 0xfb, 0xf4];
    record(
        13,
        1,
        &[&[192, 0, 2, 9, 0, 1, b'm', 0, 2], v4, &v6.concat()],
    )
}

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const HOP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn entry(peer: u8, path_id: &[u8], attributes: &[&[u8]]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    [&[0, peer, 0, 0, 0, 0][..], path_id, &length, &attributes].concat()
}

/// Routes of a table, as text.
fn routes(reader: &mut MrtReader, bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    for record in records(bytes) {
        if let MrtContent::Routes(routes) = reader.decode(&record).unwrap() {
            for route in routes {
                let what = match &route.attributes {
                    Some(attributes) => format!("via {}", attributes.next_hop),
                    None => route.errors[0].to_string(),
                };
                lines.push(format!("{} {} {what}", route.peer.address, route.nlri));
            }
        }
    }
    lines
}

/// RFC 6396 section 4.3, RFC 8050 section 4.
#[test]
fn tables_in_all_their_forms() {
    let mut reader = MrtReader::default();
    let short: &[u8] = &[&[0x80, 14, 17, 16][..], &HOP6].concat();
    let long: &[u8] = &[
        &[0x80, 14, 26, 0, 2, 1, 16][..],
        &HOP6,
        &[0, 32, 0x20, 1, 0xd, 0xb8],
    ]
    .concat();
    let bytes = [
        peers(),
        record(
            13,
            2,
            &[
                &[0, 0, 0, 1, 8, 10, 0, 2],
                &entry(0, &[], &[ORIGIN, PATH, HOP]),
                &entry(1, &[], &[ORIGIN, HOP]),
            ],
        ),
        record(
            13,
            8,
            &[
                &[0, 0, 0, 2, 8, 11, 0, 1],
                &entry(0, &[0, 0, 0, 7], &[ORIGIN, PATH, HOP]),
            ],
        ),
        record(
            13,
            4,
            &[
                &[0, 0, 0, 3, 32, 0x20, 1, 0xd, 0xb8, 0, 3],
                &entry(1, &[], &[ORIGIN, PATH, short]),
                &entry(1, &[], &[ORIGIN, PATH, long]),
                &entry(1, &[], &[ORIGIN, PATH]),
            ],
        ),
        record(13, 6, &[&[1, 2, 3]]),
    ]
    .concat();
    assert_eq!(
        routes(&mut reader, &bytes),
        [
            "192.0.2.1 10.0.0.0/8 via 192.0.2.1",
            "2001:db8::1 10.0.0.0/8 attribute 2: is mandatory and missing",
            "192.0.2.1 11.0.0.0/8 path 7 via 192.0.2.1",
            "2001:db8::1 2001:db8::/32 via 2001:db8::1",
            "2001:db8::1 2001:db8::/32 via 2001:db8::1",
            "2001:db8::1 2001:db8::/32 via ::",
        ]
    );
}

/// RFC 6396 section 4.2: AS numbers have two octets there.
#[test]
fn a_table_dump_of_the_first_version() {
    let attributes = [ORIGIN, &[0x40, 2, 4, 2, 1, 0xfb, 0xf4], HOP].concat();
    let length = u8::try_from(attributes.len()).unwrap();
    let body: &[u8] = &[
        0, 0, 0, 1, 10, 1, 2, 3, 8, 1, 0, 0, 0, 0, 192, 0, 2, 1, 0xfb, 0xf4, 0, length,
    ];
    let bytes = record(12, 1, &[body, &attributes]);
    assert_eq!(
        routes(&mut MrtReader::default(), &bytes),
        ["192.0.2.1 10.0.0.0/8 via 192.0.2.1"],
        "host bits are cleared"
    );
}

#[test]
fn messages_are_read_as_their_subtype_says() {
    let message = |path: &[u8], nlri: &[u8]| {
        let attributes = [ORIGIN, path, HOP].concat();
        let body = [
            &[0, 0, 0, u8::try_from(attributes.len()).unwrap()][..],
            &attributes,
            nlri,
        ];
        bgp_core::encode(MessageType::Update, &body.concat())
    };
    let ends = [0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 9];
    let two: &[u8] = &[0xfb, 0xf4, 0xfb, 0xf5];
    let four: &[u8] = &[0, 0, 0xfb, 0xf4, 0, 0, 0xfb, 0xf5];
    let narrow: &[u8] = &[0x40, 2, 4, 2, 1, 0xfb, 0xf4];
    let id = [0, 0, 0, 7, 8, 10];
    let bytes = [
        record(16, 1, &[two, &ends, &message(narrow, &id[4..])]),
        record(16, 4, &[four, &ends, &message(PATH, &id[4..])]),
        record(17, 9, &[&[0, 0, 0, 5], four, &ends, &message(PATH, &id)]),
    ]
    .concat();
    let mut lines = Vec::new();
    for record in records(&bytes) {
        let MrtContent::Message(message) = MrtReader::default().decode(&record).unwrap() else {
            panic!("{record:?}");
        };
        let update = decode_update(message.body, &message.context).unwrap();
        let routes = &update.announced[0];
        let path = routes.attributes.as_path.flat();
        lines.push(format!(
            "{} AS{} {} {path:?} {}",
            message.peer.address,
            message.peer.asn.0,
            routes.nlri[0],
            record.microseconds % 1_000_000
        ));
    }
    assert_eq!(
        lines,
        [
            "192.0.2.1 AS64500 10.0.0.0/8 [Asn(64500)] 0",
            "192.0.2.1 AS64500 10.0.0.0/8 [Asn(64500)] 0",
            "192.0.2.1 AS64500 10.0.0.0/8 path 7 [Asn(64500)] 5",
        ]
    );
}

#[test]
fn damage_is_told_with_its_place_and_the_next_record_is_read() {
    let good = record(
        13,
        2,
        &[
            &[0, 0, 0, 1, 8, 10, 0, 1],
            &entry(0, &[], &[ORIGIN, PATH, HOP]),
        ],
    );
    let bad = record(
        13,
        2,
        &[
            &[0, 0, 0, 1, 8, 10, 0, 1],
            &entry(9, &[], &[ORIGIN, PATH, HOP]),
        ],
    );
    let bytes = [peers(), bad, good.clone()].concat();
    let mut reader = MrtReader::default();
    let found = records(&bytes);
    assert_eq!(reader.decode(&found[0]), Ok(MrtContent::PeerIndex(2)));
    let error = reader.decode(&found[1]).unwrap_err();
    assert_eq!(error.offset, u64::try_from(peers().len()).unwrap());
    assert!(
        error
            .to_string()
            .contains("peer 9 of 10.0.0.0/8 is not in the PEER_INDEX_TABLE, which has 2")
    );
    assert!(matches!(
        reader.decode(&found[2]),
        Ok(MrtContent::Routes(_))
    ));

    let mut framer = MrtFramer::default();
    framer.push(&good[..good.len() - 1]);
    assert_eq!(framer.next_record(), Ok(None));
    let error = framer.finish().unwrap_err();
    assert_eq!(error.offset, 0);
    assert!(
        error
            .text
            .contains(&format!("of its {} octets", good.len())),
        "{error}"
    );
    let mut framer = MrtFramer::default();
    framer.push(&[0, 0, 0, 0, 0, 13, 0, 2, 0xff, 0, 0, 0]);
    assert!(
        framer
            .next_record()
            .unwrap_err()
            .text
            .contains("no MRT archive")
    );
}

fn line(data: &str) -> Result<RisMessage, String> {
    let line = format!(
        r#"{{"type":"ris_message","data":{{"timestamp":1763861000.5,"peer":"2001:db8::9",
        "peer_asn":"64500","host":"rrc00.ripe.net",{data}}}}}"#
    );
    ris::decode(line.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn ris_live_updates() {
    let message = line(
        r#""type":"UPDATE","path":[64500,[64502,64501]],"community":[[64500,7]],"origin":"INCOMPLETE",
        "med":5,"aggregator":"64500:192.0.2.1","withdrawals":["10.0.0.0/8","11.0.0.0/8"],
        "announcements":[{"next_hop":"2001:db8::9,fe80::9","prefixes":["2001:db8:1::/48"]},
        {"next_hop":"192.0.2.9","prefixes":["10.0.0.0/8"]}]"#,
    );
    let Ok(RisMessage::Update { peer, update }) = message else {
        panic!("{message:?}");
    };
    assert_eq!(
        (peer.asn.0, peer.microseconds),
        (64500, 1_763_861_000_500_000)
    );
    let gone: Vec<String> = update.withdrawn.iter().map(ToString::to_string).collect();
    assert_eq!(gone, ["11.0.0.0/8"], "announced in the same message");
    let text = |index: usize| {
        let routes = &update.announced[index];
        format!(
            "{} via {} {:?} {:?}",
            routes.nlri[0],
            routes.attributes.next_hop,
            routes.attributes.link_local,
            routes
                .attributes
                .as_path
                .flat()
                .iter()
                .map(|asn| asn.0)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        text(0),
        "10.0.0.0/8 via 192.0.2.9 None [64500, 64502, 64501]"
    );
    assert_eq!(
        text(1),
        "2001:db8:1::/48 via 2001:db8::9 Some(fe80::9) [64500, 64502, 64501]"
    );
    assert_eq!(
        attribute_values(&update.announced[0].attributes.other).len(),
        3
    );
}

#[test]
fn other_ris_live_lines() {
    let state = line(r#""type":"RIS_PEER_STATE","state":"down""#);
    assert!(matches!(state, Ok(RisMessage::PeerState { up: false, .. })));
    assert_eq!(
        line(r#""type":"KEEPALIVE""#),
        Ok(RisMessage::Other("KEEPALIVE".to_owned()))
    );
    assert!(line(r#""type":"UPDATE","origin":"IGP","announcements":[{"next_hop":"x","prefixes":["10.0.0.0/8"]}]"#).is_err());
    assert!(line(r#""type":"UPDATE","announcements":[{"next_hop":"192.0.2.1","prefixes":["10.0.0.0/8"]}]"#).is_err());
    let zero = line(
        r#""type":"UPDATE","path":[0],"origin":"IGP","announcements":[{"next_hop":"192.0.2.1","prefixes":["10.0.0.0/8"]}]"#,
    );
    // It is treated as withdrawn (RFC 7607 section 2): the route before is not so any more.
    let Ok(RisMessage::Update { update, .. }) = zero else {
        panic!("{zero:?}");
    };
    assert_eq!(update.withdrawn[0].to_string(), "10.0.0.0/8");
    assert!(update.announced.is_empty() && update.errors[0].text.contains("AS 0"));
    let refused = ris::decode(br#"{"type":"ris_error","data":{"message":"no such type"}}"#);
    assert_eq!(
        refused,
        Ok(RisMessage::ServiceError("no such type".to_owned()))
    );
    let pong = ris::decode(br#"{"type":"pong","data":null}"#);
    assert_eq!(pong, Ok(RisMessage::Other("pong".to_owned())));
    for bad in [&b"{"[..], b"[]", b"7", b"{}", b"\"x\""] {
        assert!(ris::decode(bad).is_err());
    }
    let subscription = ris::subscription(Some(&"10.0.0.0/8".parse().unwrap()));
    assert!(
        subscription.contains("\"moreSpecific\":true"),
        "{subscription}"
    );
}
