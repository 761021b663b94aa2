use super::*;
use events::Timestamp;

fn vrp(prefix: &str, max_length: u8, asn: u32) -> Vrp {
    Vrp::new(prefix.parse().unwrap(), max_length, Asn(asn)).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

/// RFC 8210 sections 5.6 and 5.8: the fields and their places.
#[test]
fn the_layout_of_pdus() {
    let prefix = RtrPdu::Prefix {
        announce: true,
        vrp: vrp("192.0.2.0/24", 26, 64500),
    };
    assert_eq!(
        prefix.encode(1),
        [
            1, 4, 0, 0, 0, 0, 0, 20, 1, 24, 26, 0, 192, 0, 2, 0, 0, 0, 251, 244
        ]
    );
    let end = [
        1, 7, 0, 5, 0, 0, 0, 24, 0, 0, 0, 9, 0, 0, 14, 16, 0, 0, 2, 88, 0, 0, 28, 32,
    ];
    let (pdu, version, length) = RtrPdu::decode(&end).unwrap().unwrap();
    assert_eq!((version, length), (1, 24));
    let expected = RtrPdu::EndOfData {
        session: 5,
        serial: 9,
        intervals: RtrIntervals::default(),
    };
    assert_eq!(pdu, expected);
    assert_eq!(pdu.encode(1), end);
    assert_eq!(RtrPdu::ResetQuery.encode(0), [0, 2, 0, 0, 0, 0, 0, 8]);
}

#[test]
fn every_pdu_survives_its_bytes_and_no_cut_does_harm() {
    let pdus = [
        RtrPdu::SerialNotify {
            session: 1,
            serial: 2,
        },
        RtrPdu::SerialQuery {
            session: 1,
            serial: 2,
        },
        RtrPdu::ResetQuery,
        RtrPdu::CacheResponse { session: 7 },
        RtrPdu::Prefix {
            announce: false,
            vrp: vrp("2001:db8::/32", 48, 1),
        },
        RtrPdu::EndOfData {
            session: 1,
            serial: 2,
            intervals: RtrIntervals::default(),
        },
        RtrPdu::CacheReset,
        RtrPdu::ErrorReport {
            code: RtrErrorCode::NoDataAvailable,
            text: "wait".into(),
        },
    ];
    for version in [0, 1] {
        for pdu in &pdus {
            let bytes = pdu.encode(version);
            let decoded = RtrPdu::decode(&bytes).unwrap();
            assert_eq!(decoded, Some((pdu.clone(), version, bytes.len())));
            for end in 0..bytes.len() {
                assert_eq!(
                    RtrPdu::decode(&bytes[..end]),
                    Ok(None),
                    "{pdu:?} cut at {end}"
                );
            }
        }
    }
}

#[test]
fn nonsense_is_refused_with_its_code() {
    use RtrErrorCode::{CorruptData, UnsupportedPduType, UnsupportedVersion};
    let cases: [(&[u8], RtrErrorCode); 7] = [
        (&[2, 2, 0, 0, 0, 0, 0, 8], UnsupportedVersion),
        (&[1, 99, 0, 0, 0, 0, 0, 8], UnsupportedPduType),
        (&[0, 9, 0, 0, 0, 0, 0, 8], UnsupportedPduType),
        (&[1, 2, 0, 0, 0, 0, 0, 7], CorruptData),
        (&[1, 2, 0, 0, 255, 0, 0, 0], CorruptData),
        (&[1, 2, 0, 0, 0, 0, 0, 9, 0], CorruptData),
        // A longest length that is shorter than the prefix.
        (
            &[
                1, 4, 0, 0, 0, 0, 0, 20, 1, 24, 23, 0, 192, 0, 2, 0, 0, 0, 0, 1,
            ],
            CorruptData,
        ),
    ];
    for (bytes, code) in cases {
        assert_eq!(RtrPdu::decode(bytes).unwrap_err().code, code, "{bytes:?}");
    }
}

/// What a cache sends in answer to a query.
fn data(version: u8, session: u16, serial: u32, changes: &[(bool, Vrp)]) -> Vec<u8> {
    let mut bytes = RtrPdu::CacheResponse { session }.encode(version);
    for &(announce, vrp) in changes {
        bytes.extend(RtrPdu::Prefix { announce, vrp }.encode(version));
    }
    let end = RtrPdu::EndOfData {
        session,
        serial,
        intervals: RtrIntervals::default(),
    };
    bytes.extend(end.encode(version));
    bytes
}

fn set(vrps: &[Vrp]) -> Vec<Vrp> {
    vrps.to_vec()
}

#[test]
fn data_comes_whole_then_by_its_changes_and_expires() {
    let (a, b) = (vrp("10.0.0.0/8", 8, 1), vrp("2001:db8::/32", 48, 2));
    let mut client = RtrClient::default();
    assert_eq!(client.connected(at(0)).send, RtrPdu::ResetQuery.encode(1));
    // In pieces, and nothing counts before the end.
    let bytes = data(1, 5, 1, &[(true, a), (true, b)]);
    let (last, most) = bytes.split_last().unwrap();
    for byte in most {
        assert_eq!(client.receive(&[*byte], at(1)), RtrStep::default());
    }
    assert!(client.is_empty());
    assert!(client.receive(&[*last], at(1)).changed);
    assert_eq!(client.all(), set(&[a, b]));

    let serial_query = RtrPdu::SerialQuery {
        session: 5,
        serial: 1,
    }
    .encode(1);
    let notify = |serial| RtrPdu::SerialNotify { session: 5, serial }.encode(1);
    assert_eq!(
        client.receive(&notify(1), at(2)),
        RtrStep::default(),
        "nothing new"
    );
    assert_eq!(client.receive(&notify(2), at(2)).send, serial_query);
    assert!(client.receive(&data(1, 5, 2, &[(false, a)]), at(3)).changed);
    assert_eq!(client.all(), set(&[b]));

    // No notification: the refresh interval leads to a query.
    let due = client.deadline().unwrap();
    assert_eq!(due, at(3 + 3600));
    let query = RtrPdu::SerialQuery {
        session: 5,
        serial: 2,
    }
    .encode(1);
    assert_eq!(client.timer(due).send, query);
    assert!(!client.receive(&data(1, 5, 2, &[]), due).changed);

    // The cache is lost: its data stays for two hours, and a new connection goes on with it.
    client.disconnected();
    assert_eq!(client.deadline(), Some(due + Duration::from_hours(2)));
    assert_eq!(client.connected(due).send, query);
    client.disconnected();
    let step = client.timer(due + Duration::from_hours(2));
    assert!(step.changed && client.is_empty());
    assert_eq!(client.connected(due).send, RtrPdu::ResetQuery.encode(1));
}

#[test]
fn a_cache_that_forgot_is_asked_for_everything() {
    let a = vrp("10.0.0.0/8", 8, 1);
    let mut client = RtrClient::default();
    client.connected(at(0));
    client.receive(&data(1, 5, 1, &[(true, a)]), at(0));
    client.disconnected();
    client.connected(at(1));
    let step = client.receive(&RtrPdu::CacheReset.encode(1), at(1));
    assert_eq!(step.send, RtrPdu::ResetQuery.encode(1));
    assert_eq!(
        client.len(),
        1,
        "what is known counts until there is something new"
    );
    assert!(client.receive(&data(1, 6, 1, &[]), at(1)).changed);
    assert!(client.is_empty());
    // A restarted cache has another session: its notification leads to a reset.
    let notify = RtrPdu::SerialNotify {
        session: 9,
        serial: 1,
    }
    .encode(1);
    assert_eq!(
        client.receive(&notify, at(2)).send,
        RtrPdu::ResetQuery.encode(1)
    );
}

#[test]
fn version_0_is_spoken_with_caches_that_know_no_other() {
    let a = vrp("10.0.0.0/8", 8, 1);
    let mut client = RtrClient::default();
    client.connected(at(0));
    assert!(client.receive(&data(0, 5, 1, &[(true, a)]), at(0)).changed);
    assert_eq!(client.all(), set(&[a]));
    client.disconnected();
    let query = RtrPdu::SerialQuery {
        session: 5,
        serial: 1,
    };
    assert_eq!(client.connected(at(1)).send, query.encode(0));

    let mut client = RtrClient::default();
    client.connected(at(0));
    let report = RtrPdu::ErrorReport {
        code: RtrErrorCode::UnsupportedVersion,
        text: "no".into(),
    };
    let step = client.receive(&report.encode(0), at(0));
    assert!(step.close.unwrap().contains("version 0"));
    client.disconnected();
    assert_eq!(client.connected(at(1)).send, RtrPdu::ResetQuery.encode(0));
}

#[test]
fn errors_are_reported_and_end_the_connection() {
    let a = vrp("10.0.0.0/8", 8, 1);
    let error = |bytes: &[u8]| {
        let mut client = RtrClient::default();
        client.connected(at(0));
        let step = client.receive(bytes, at(0));
        assert!(step.close.is_some());
        let (report, ..) = RtrPdu::decode(&step.send).unwrap().unwrap();
        let RtrPdu::ErrorReport { code, .. } = report else {
            panic!("{report:?}");
        };
        client.disconnected();
        assert_eq!(client.connected(at(1)).send, RtrPdu::ResetQuery.encode(1));
        code
    };
    use RtrErrorCode as Code;
    assert_eq!(
        error(&data(1, 5, 1, &[(false, a)])),
        Code::WithdrawalOfUnknown
    );
    assert_eq!(
        error(&data(1, 5, 1, &[(true, a), (true, a)])),
        Code::DuplicateAnnouncement
    );
    assert_eq!(error(&RtrPdu::ResetQuery.encode(1)), Code::InvalidRequest);
    assert_eq!(error(&[1, 2, 0, 0, 0, 0, 0, 1]), Code::CorruptData);
    let mut client = RtrClient::default();
    client.connected(at(0));
    client.receive(&data(1, 5, 1, &[(true, a)]), at(0));
    let step = client.receive(&data(0, 5, 2, &[]), at(0));
    assert!(step.close.unwrap().contains("version"));
}

#[test]
fn a_cache_without_data_yet_is_asked_again_and_a_silent_one_is_left() {
    let mut client = RtrClient::default();
    client.connected(at(0));
    let report = RtrPdu::ErrorReport {
        code: RtrErrorCode::NoDataAvailable,
        text: String::new(),
    };
    let step = client.receive(&report.encode(1), at(0));
    assert_eq!(step, RtrStep::default());
    let due = client.deadline().unwrap();
    assert_eq!(due, at(30));
    assert_eq!(client.timer(due).send, RtrPdu::ResetQuery.encode(1));
    let due = client.deadline().unwrap();
    assert_eq!(due, at(90));
    assert!(client.timer(due).close.is_some());
}
