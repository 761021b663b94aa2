//! BMP that routers sent, with another implementation's reading of every message beside it.
//!
//! The recordings are not part of the repository: they are looked for in `../shared/data/bmp` next to
//! the workspace, or where `NETWATCH_SHARED_DATA` says.

use std::path::PathBuf;

use bgp_core::bmp::{BmpFramer, BmpMessage, Information, PeerHeader, PeerType, decode};
use bgp_core::capture::{Capture, Chunk, Direction};
use bgp_core::{AsPath, Family, Nlri, Open, Station, StationAction, Update};
use events::RibView;
use serde_json::Value;

fn data(file: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("NETWATCH_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(file);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(std::fs::read(path).unwrap())
}

#[test]
fn every_recorded_message_is_read_as_netgauze_reads_it() {
    for (name, version, count) in [
        ("peers-with-different-caps", "V3", 192),
        ("stateless-with-add-path", "V4", 30),
    ] {
        let Some(packets) = data(&format!("bmp/{name}.pcap")) else {
            continue;
        };
        let text = data(&format!("bmp/{name}.json")).unwrap();
        let expected: Vec<Value> = std::str::from_utf8(&text)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut framer = BmpFramer::default();
        let mut direction = Direction::default();
        for segment in Capture::new(&packets).unwrap() {
            for chunk in direction.push(&segment.unwrap()) {
                match chunk {
                    Chunk::Bytes(bytes) => framer.push(&bytes),
                    Chunk::Opened => {}
                    Chunk::Gap => panic!("packets are missing"),
                }
            }
        }
        let mut station = Station::new("192.0.2.1".parse().unwrap());
        let mut seen = 0;
        while let Some(frame) = framer.next_frame().unwrap() {
            let theirs = &expected[seen][version];
            seen += 1;
            match decode(&frame).unwrap() {
                BmpMessage::Initiation(information) => {
                    assert_eq!(
                        texts(&information),
                        said(&theirs["Initiation"]["information"])
                    );
                    station.handle(&frame).unwrap();
                }
                BmpMessage::PeerUp(up) => {
                    let theirs = &theirs["PeerUpNotification"];
                    header(&up.peer, &theirs["peer_header"], seen);
                    if let Some(address) = theirs["local_address"].as_str() {
                        assert_eq!(up.local_address.to_string(), address);
                    }
                    assert_eq!(
                        u64::from(up.local_port),
                        theirs["local_port"].as_u64().unwrap_or(0)
                    );
                    assert_eq!(
                        u64::from(up.remote_port),
                        theirs["remote_port"].as_u64().unwrap_or(0)
                    );
                    open(&up.sent, &theirs["sent_message"]["Open"]);
                    open(&up.received, &theirs["received_message"]["Open"]);
                    assert_eq!(texts(&up.information), said(&theirs["information"]));
                    assert!(station.handle(&frame).unwrap().is_empty());
                }
                BmpMessage::RouteMonitoring(monitored) => {
                    let theirs = &theirs["RouteMonitoring"];
                    header(&monitored.peer, &theirs["peer_header"], seen);
                    let their_update = if version == "V3" {
                        &theirs["update_message"]["Update"]
                    } else {
                        assert_eq!(monitored.table.as_deref(), Some("global"));
                        &theirs["update_pdu"]["value"]["BgpUpdate"]["Update"]
                    };
                    let actions = station.handle(&frame).unwrap();
                    let Some(StationAction::Update(_, ours)) = actions.last() else {
                        panic!("message {seen}: {actions:?}");
                    };
                    update(ours, their_update, seen);
                }
                other => panic!("message {seen}: {other:?}"),
            }
        }
        assert_eq!((seen, expected.len(), framer.pending()), (count, count, 0));
        assert_eq!(station.counts.unannounced + station.counts.refused, 0);
    }
}

fn header(ours: &PeerHeader, theirs: &Value, message: usize) {
    let kind = &theirs["peer_type"];
    let set = |flag: &str| kind["GlobalInstancePeer"][flag].as_bool().unwrap_or(false);
    let loc = kind.get("LocRibInstancePeer").is_some();
    let view = match (loc, set("adj_rib_out"), set("post_policy")) {
        (true, ..) => RibView::Loc,
        (_, false, false) => RibView::InPrePolicy,
        (_, false, true) => RibView::InPostPolicy,
        (_, true, false) => RibView::OutPrePolicy,
        (_, true, true) => RibView::OutPostPolicy,
    };
    assert_eq!(ours.view, view, "message {message}");
    assert_eq!(ours.kind == PeerType::LocRib, loc);
    assert_eq!(ours.two_octet_as, set("asn2"));
    assert_eq!(
        ours.filtered,
        kind["LocRibInstancePeer"]["filtered"] == true
    );
    assert_eq!(ours.distinguisher, 0);
    match theirs["address"].as_str() {
        Some(address) => assert_eq!(ours.address.to_string(), address),
        None => assert!(ours.address.is_unspecified()),
    }
    assert_eq!(ours.address.is_ipv6(), set("ipv6"));
    assert_eq!(u64::from(ours.asn.0), theirs["peer_as"].as_u64().unwrap());
    assert_eq!(ours.bgp_id.to_string(), theirs["bgp_id"].as_str().unwrap());
}

fn texts(information: &[Information]) -> Vec<(&str, &str)> {
    information.iter().map(text).collect()
}

fn text(information: &Information) -> (&str, &str) {
    match information {
        Information::Text(text) => ("String", text),
        Information::SystemDescription(text) => ("SystemDescription", text),
        Information::SystemName(text) => ("SystemName", text),
        Information::TableName(text) => ("VrfTableName", text),
        Information::Other(_) => ("", ""),
    }
}

fn said(theirs: &Value) -> Vec<(&str, &str)> {
    let entries = theirs.as_array().unwrap().iter();
    entries
        .flat_map(|entry| entry.as_object().unwrap())
        .map(|(name, text)| (name.as_str(), text.as_str().unwrap()))
        .collect()
}

fn open(ours: &Open, theirs: &Value) {
    assert_eq!(
        u64::from(ours.hold_time),
        theirs["hold_time"].as_u64().unwrap()
    );
    assert_eq!(
        ours.router_id.to_string(),
        theirs["bgp_id"].as_str().unwrap()
    );
    let parameters = theirs["params"].as_array().unwrap().iter();
    let capabilities: Vec<&Value> = parameters
        .flat_map(|parameter| parameter["Capabilities"].as_array().unwrap())
        .collect();
    let asn = capabilities
        .iter()
        .find_map(|capability| capability["FourOctetAs"]["asn4"].as_u64());
    assert_eq!(ours.four_octet_as, asn.is_some());
    let asn = asn.or(theirs["my_as"].as_u64());
    assert_eq!(Some(u64::from(ours.asn.0)), asn);
    for (family, name) in [(Family::Ipv4, "Ipv4Unicast"), (Family::Ipv6, "Ipv6Unicast")] {
        let mode = |direction: &str| {
            capabilities
                .iter()
                .filter_map(|capability| capability["AddPath"]["address_families"].as_array())
                .flatten()
                .any(|entry| entry["address_type"] == name && entry[direction] == true)
        };
        assert_eq!(ours.add_path_send.contains(family), mode("send"));
        assert_eq!(ours.add_path_receive.contains(family), mode("receive"));
    }
}

fn update(ours: &Update, theirs: &Value, message: usize) {
    assert!(
        ours.errors.is_empty(),
        "message {message}: {:?}",
        ours.errors
    );
    let values = || {
        let attributes = theirs["path_attributes"].as_array().unwrap().iter();
        attributes.map(|attribute| &attribute["value"])
    };
    let unicast = |kind: &str| -> Vec<String> {
        values()
            .flat_map(|value| {
                ["Ipv4Unicast", "Ipv6Unicast"].map(|family| value[kind][family]["nlri"].as_array())
            })
            .flatten()
            .flatten()
            .map(route)
            .collect()
    };
    let mut announced: Vec<String> = theirs["nlri"]
        .as_array()
        .unwrap()
        .iter()
        .map(route)
        .collect();
    announced.extend(unicast("MpReach"));
    let mut withdrawn: Vec<String> = theirs["withdrawn_routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(route)
        .collect();
    withdrawn.extend(unicast("MpUnreach"));
    let text = |nlri: &Nlri| format!("{} {:?}", nlri.prefix, nlri.path_id);
    let routes = ours.announced.iter().flat_map(|routes| &routes.nlri);
    assert_eq!(
        routes.map(text).collect::<Vec<_>>(),
        announced,
        "message {message}"
    );
    let gone: Vec<String> = ours.withdrawn.iter().map(text).collect();
    assert_eq!(gone, withdrawn, "message {message}");
    let nothing = values().next().is_none() && announced.is_empty() && withdrawn.is_empty();
    assert_eq!(ours.end_of_rib.is_some(), nothing, "message {message}");
    let Some(routes) = ours.announced.first() else {
        return;
    };
    let their_path = values().find_map(|value| value["AsPath"]["As4PathSegments"].as_array());
    assert_eq!(
        path(&routes.attributes.as_path),
        their_path.map_or_else(Vec::new, |segments| {
            let number = |asn: &Value| asn.as_u64().unwrap();
            let numbers = |segment: &Value| {
                let numbers = segment["as_numbers"].as_array().unwrap();
                numbers.iter().map(number).collect::<Vec<_>>()
            };
            segments.iter().map(numbers).collect()
        })
    );
    let their_hop = values().find_map(|value| value["NextHop"]["next_hop"].as_str());
    if let Some(hop) = their_hop {
        assert_eq!(routes.attributes.next_hop.to_string(), hop);
    }
}

fn path(path: &AsPath) -> Vec<Vec<u64>> {
    let members = |segment: &bgp_core::Segment| {
        let numbers = segment.members.iter();
        numbers.map(|asn| u64::from(asn.0)).collect()
    };
    path.0.iter().map(members).collect()
}

fn route(theirs: &Value) -> String {
    let id = theirs["path_id"].as_u64();
    format!("{} {id:?}", theirs["network"].as_str().unwrap())
}
