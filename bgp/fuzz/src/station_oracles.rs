//! Other decoders' readings of BMP and MRT, where they define the answer.

use std::net::IpAddr;

use bgp_core::bmp::{BmpFrame, BmpMessage, PeerHeader, decode};
use bgp_core::mrt::{MrtContent, MrtError, MrtRecord};
use bgpkit_parser::models::{Bgp4MpEnum, MrtMessage, TableDumpV2Message};
use routecore::bmp::message::{Message, PerPeerHeader};

/// routecore checks little; where it reads what we read, it reads the same.
pub fn bmp(frame: &BmpFrame) {
    // It panics on some OPENs of Peer Up (a subtraction that overflows in its open.rs).
    if frame.version != 3 || frame.kind == 3 {
        return;
    }
    let Ok(ours) = decode(frame) else { return };
    let length = u32::try_from(frame.body.len() + 6)
        .expect("short")
        .to_be_bytes();
    let octets = [&[3][..], &length, &[frame.kind], &frame.body].concat();
    let Ok(theirs) = Message::from_octets(&octets[..]) else {
        return;
    };
    match (&ours, &theirs) {
        (BmpMessage::RouteMonitoring(ours), Message::RouteMonitoring(theirs)) => {
            header(&ours.peer, &theirs.per_peer_header());
        }
        (BmpMessage::Statistics { peer, .. }, Message::StatisticsReport(theirs)) => {
            header(peer, &theirs.per_peer_header());
        }
        (BmpMessage::PeerDown { peer, .. }, Message::PeerDownNotification(theirs)) => {
            header(peer, &theirs.per_peer_header());
        }
        (BmpMessage::RouteMirroring(ours), Message::RouteMirroring(theirs)) => {
            header(ours, &theirs.per_peer_header());
        }
        (BmpMessage::Initiation(_), Message::InitiationMessage(_))
        | (BmpMessage::Termination { .. }, Message::TerminationMessage(_)) => {}
        (ours, _) => panic!("{ours:?} is another type for routecore"),
    }
}

fn header<O: routecore::Octets>(ours: &PeerHeader, theirs: &PerPeerHeader<O>) {
    assert_eq!(ours.asn.0, theirs.asn().into_u32());
    assert_eq!(ours.bgp_id.octets(), theirs.bgp_id());
    assert_eq!(ours.distinguisher.to_be_bytes(), theirs.distinguisher());
    // It knows no Loc-RIB, whose flags mean something else.
    if ours.kind != bgp_core::bmp::PeerType::LocRib {
        assert_eq!(ours.address, theirs.address());
        assert_eq!(ours.two_octet_as, theirs.is_legacy_format());
    }
}

/// bgpkit-parser takes more than we do; where both read a record, places and peers are the same. Its
/// attributes and prefixes in messages are not compared: it guesses there.
pub fn mrt(record: &MrtRecord, ours: &Result<MrtContent<'_>, MrtError>) {
    let Ok(ours) = ours else { return };
    let body = if record.kind == 17 {
        let micros = u32::try_from(record.microseconds % 1_000_000).expect("below a million");
        [&micros.to_be_bytes()[..], &record.body].concat()
    } else {
        record.body.to_vec()
    };
    let parsed = bgpkit_parser::parser::mrt::mrt_record::parse_mrt_body(
        record.kind,
        record.subtype,
        bytes::Bytes::from(body),
    );
    let Ok(theirs) = parsed else { return };
    match (ours, theirs) {
        (
            MrtContent::PeerIndex(count),
            MrtMessage::TableDumpV2Message(TableDumpV2Message::PeerIndexTable(table)),
        ) => assert_eq!(*count, table.id_peer_map.len()),
        (
            MrtContent::Routes(routes),
            MrtMessage::TableDumpV2Message(TableDumpV2Message::RibAfi(theirs)),
        ) => {
            // It leaves out entries with attributes that it cannot read, such as an MP_UNREACH_NLRI
            // that has no place here.
            assert!(routes.len() >= theirs.rib_entries.len());
            if routes.len() > theirs.rib_entries.len() {
                return;
            }
            for (ours, entry) in routes.iter().zip(&theirs.rib_entries) {
                assert_eq!(ours.nlri.prefix, theirs.prefix.prefix.trunc());
                assert_eq!(ours.nlri.path_id, entry.path_id);
            }
        }
        (MrtContent::Message(ours), MrtMessage::Bgp4Mp(Bgp4MpEnum::Message(theirs))) => {
            same(ours.peer.address, theirs.peer_ip);
            assert_eq!(ours.peer.asn.0, theirs.peer_asn.to_u32());
            assert_eq!(ours.local, theirs.is_local());
        }
        (
            MrtContent::StateChange { peer, old, new },
            MrtMessage::Bgp4Mp(Bgp4MpEnum::StateChange(theirs)),
        ) => {
            same(peer.address, theirs.peer_ip);
            assert_eq!(peer.asn.0, theirs.peer_asn.to_u32());
            assert_eq!(*old, theirs.old_state as u16);
            assert_eq!(*new, theirs.new_state as u16);
        }
        _ => {}
    }
}

fn same(ours: IpAddr, theirs: IpAddr) {
    assert_eq!(ours, theirs);
}
