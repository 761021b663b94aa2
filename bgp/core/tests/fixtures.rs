//! Messages that another implementation recorded, with its own reading of them beside each.
//!
//! The recordings are not part of the repository: they are looked for in `../shared/data/bgp` next to
//! the workspace, or where `NETWATCH_SHARED_DATA` says.

use std::path::PathBuf;

use bgp_core::{Context, Families, Framer, MessageType, decode_update};

fn data() -> PathBuf {
    std::env::var_os("NETWATCH_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    )
}

#[test]
fn exabgp_recordings_are_read_as_exabgp_reads_them() {
    for number in 1..=2 {
        let path = data().join(format!("bgp/exabgp-ipv4-unicast-{number}.txt"));
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: {} is not there", path.display());
            continue;
        };
        check(&text);
    }
}

fn check(text: &str) {
    let line = text
        .lines()
        .find(|line| line.starts_with("FFFF"))
        .expect("a line of hexadecimal bytes");
    let bytes: Vec<u8> = (0..line.len() / 2)
        .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let mut framer = Framer::default();
    framer.push(&bytes);
    let frame = framer.next_frame().unwrap().expect("a whole message");
    assert_eq!(frame.kind, MessageType::Update);
    assert_eq!(framer.next_frame(), Ok(None));
    let context = Context {
        four_octet_as: true,
        internal: true,
        families: Families::BOTH,
        ..Context::default()
    };
    let update = decode_update(&frame.body, &context).unwrap();
    let ours: Vec<String> = update
        .announced
        .iter()
        .flat_map(|announcement| {
            let hop = announcement.attributes.next_hop;
            announcement
                .prefixes()
                .map(move |prefix| format!("{hop} {prefix}"))
        })
        .collect();
    assert_eq!(ours, theirs(text));
    assert!(update.errors.is_empty(), "{:?}", update.errors);
}

/// `"announce": { "ipv4 unicast": { NEXT HOP: [ { "nlri": PREFIX }, …`, without a JSON parser: the
/// strings of that object in order are the next hop, and then "nlri" and a prefix by turns.
fn theirs(text: &str) -> Vec<String> {
    let Some((_, announce)) = text.split_once("\"announce\":") else {
        return Vec::new();
    };
    let (_, unicast) = announce.split_once("\"ipv4 unicast\":").unwrap();
    let unicast = unicast
        .split_once(']')
        .map_or(unicast, |(routes, _)| routes);
    let mut strings = unicast.split('"').skip(1).step_by(2);
    let hop = strings.next().unwrap();
    strings
        .filter(|text| *text != "nlri")
        .map(|prefix| format!("{hop} {prefix}"))
        .collect()
}
