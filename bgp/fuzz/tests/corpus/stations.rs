//! Rows of BMP and MRT.

use bgp_fuzz::targets::Target;

use super::{HOP, ORIGIN, PATH, TEN, message, open, update};

/// Global peer 192.0.2.1 of AS 64500, with these flags.
fn peer(kind: u8, flags: u8) -> Vec<u8> {
    [
        &[kind, flags][..],
        &[0; 8],
        &[0; 12],
        &[192, 0, 2, 1, 0, 0, 0xfb, 0xf4, 192, 0, 2, 1],
        &[0x67, 0x32, 0x34, 0x45, 0, 1, 2, 3],
    ]
    .concat()
}

fn bmp(version: u8, kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
    [&[version][..], &length, &[kind], &body].concat()
}

fn peer_up(flags: u8, capabilities: &[u8]) -> Vec<u8> {
    let open = open(4, 1, 90, 1, capabilities);
    let ends = [&[0; 12][..], &[192, 0, 2, 9, 0, 179, 0xc0, 1]].concat();
    bmp(3, 3, &[&peer(0, flags), &ends, &open, &open])
}

fn monitoring(flags: u8) -> Vec<u8> {
    let update = update(&[], &[ORIGIN, PATH, HOP], TEN);
    bmp(3, 0, &[&peer(0, flags), &update])
}

fn record(kind: u8, subtype: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let header = [0x56, 0x8e, 0x53, 0xab, 0, kind, 0, subtype];
    [&header[..], &length, body].concat()
}

fn bgp4mp(width: usize, rest: &[u8]) -> Vec<u8> {
    let number = &[0, 0, 0xfb, 0xf4][4 - width..];
    let ends = [0, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 9];
    [number, number, &ends, rest].concat()
}

fn table() -> Vec<u8> {
    let peers = [
        192, 0, 2, 9, 0, 1, b'm', 0, 1, 2, 192, 0, 2, 1, 192, 0, 2, 1, 0, 0, 0xfb, 0xf4,
    ];
    record(13, 1, &peers)
}

fn routes(subtype: u8, index: u8, attributes: &[&[u8]]) -> Vec<u8> {
    let attributes = attributes.concat();
    let mut body = vec![0, 0, 0, 1, 8, 10, 0, 1, 0, index, 0, 0, 0, 0];
    if subtype == 8 {
        body.extend([0, 0, 0, 7]);
    }
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    record(13, subtype, &body)
}

pub fn rows() -> Vec<(Target, &'static str, u8, Vec<u8>)> {
    let initiation = bmp(3, 4, &[&[0, 2, 0, 2, b'r', b'1', 0, 1, 0, 1, b'x']]);
    let add_path: &[u8] = &[65, 4, 0, 0, 0xfb, 0xf4, 69, 4, 0, 1, 1, 3];
    let unreadable = bmp(
        3,
        0,
        &[&peer(0, 0), &update(&[33, 1, 2, 3, 4, 5], &[], &[])],
    );
    let draft = |mode: u8| {
        let update = update(&[], &[ORIGIN, PATH, HOP], &[0, 0, 0, 1, 8, 10]);
        let length = u16::try_from(update.len()).unwrap().to_be_bytes();
        let stateless = [0, 1, 0, 6, 0, 0, 69, 4, 0, 1, 1, mode];
        bmp(
            4,
            0,
            &[&peer(0, 0), &stateless, &[0, 4], &length, &[0, 0], &update],
        )
    };
    let notification = message(3, &[6, 2]);
    let down = |reason: u8, rest: &[u8]| bmp(3, 2, &[&peer(0, 0), &[reason], rest]);
    let statistic = [
        0, 0, 0, 2, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 4, 0, 0, 0, 9,
    ];
    let bmp_rows: Vec<(&str, Vec<u8>)> = vec![
        ("initiation", initiation.clone()),
        (
            "pre-and-post-policy",
            [
                peer_up(0, &[]),
                monitoring(0),
                monitoring(0x40),
                monitoring(0x50),
            ]
            .concat(),
        ),
        ("before-peer-up", [monitoring(0), peer_up(0, &[])].concat()),
        ("add-path", [peer_up(0, add_path), monitoring(0)].concat()),
        (
            "down-and-up-again",
            [
                peer_up(0, &[]),
                monitoring(0),
                down(3, &notification),
                peer_up(0, &[]),
                monitoring(0),
            ]
            .concat(),
        ),
        (
            "an-update-that-cannot-be-read",
            [peer_up(0, &[]), monitoring(0), unreadable, monitoring(0)].concat(),
        ),
        ("draft", [peer_up(0, &[]), draft(1), draft(2)].concat()),
        ("loc-rib", {
            let open = open(4, 1, 90, 1, &[]);
            let up = bmp(3, 3, &[&peer(3, 0x80), &[0; 20], &open, &open]);
            let own: &[u8] = &[0x40, 3, 4, 0, 0, 0, 0];
            let update = update(&[], &[ORIGIN, PATH, own], TEN);
            [up, bmp(3, 0, &[&peer(3, 0x80), &update])].concat()
        }),
        (
            "statistics",
            [peer_up(0, &[]), bmp(3, 1, &[&peer(0, 0), &statistic])].concat(),
        ),
        ("termination", bmp(3, 5, &[&[0, 1, 0, 2, 0, 2]])),
        ("mirroring", bmp(3, 6, &[&peer(0, 0), &[0, 1, 0, 2, 0, 1]])),
        ("unknown-type", bmp(3, 9, &[&[1, 2, 3]])),
        ("down-without-notification", down(1, &[])),
        ("version-2", bmp(2, 4, &[])),
        ("length-5", vec![3, 0, 0, 0, 5, 4]),
        ("length-of-gigabytes", vec![3, 0xff, 0, 0, 0, 0]),
        ("tlv-cut", bmp(3, 4, &[&[0, 2, 0, 9, b'r']])),
        (
            "three-messages",
            [initiation.clone(), peer_up(0, &[]), initiation].concat(),
        ),
    ];
    let plain = update(&[], &[ORIGIN, PATH, HOP], TEN);
    let narrow = update(&[], &[ORIGIN, &[0x40, 2, 4, 2, 1, 0xfb, 0xf4], HOP], TEN);
    let hop6: &[u8] = &[
        0x80, 14, 17, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ];
    let dump = [
        &[
            0, 0, 0, 1, 10, 0, 0, 0, 8, 1, 0, 0, 0, 0, 192, 0, 2, 1, 0xfb, 0xf4, 0, 18,
        ][..],
        ORIGIN,
        &[0x40, 2, 4, 2, 1, 0xfb, 0xf4],
        HOP,
    ]
    .concat();
    let mrt_rows: Vec<(&str, Vec<u8>)> = vec![
        ("message", record(16, 1, &bgp4mp(2, &narrow))),
        ("message-as4", record(16, 4, &bgp4mp(4, &plain))),
        (
            "message-et",
            record(17, 4, &[&[0, 1, 2, 3][..], &bgp4mp(4, &plain)].concat()),
        ),
        ("message-et-cut", record(17, 4, &[0, 1])),
        ("message-local", record(16, 7, &bgp4mp(4, &plain))),
        ("message-add-path", {
            let update = update(&[], &[ORIGIN, PATH, HOP], &[0, 0, 0, 1, 8, 10]);
            record(16, 9, &bgp4mp(4, &update))
        }),
        ("state-change", record(16, 5, &bgp4mp(4, &[0, 6, 0, 1]))),
        (
            "trailing-octet",
            record(16, 4, &bgp4mp(4, &[&plain[..], &[0]].concat())),
        ),
        (
            "table",
            [table(), routes(2, 0, &[ORIGIN, PATH, HOP])].concat(),
        ),
        (
            "table-add-path",
            [table(), routes(8, 0, &[ORIGIN, PATH, HOP])].concat(),
        ),
        (
            "table-ipv6",
            [table(), routes(4, 0, &[ORIGIN, PATH, hop6])].concat(),
        ),
        (
            "table-without-next-hop",
            [table(), routes(4, 0, &[ORIGIN, PATH])].concat(),
        ),
        (
            "peer-not-in-table",
            [table(), routes(2, 3, &[ORIGIN, PATH, HOP])].concat(),
        ),
        ("table-dump", record(12, 1, &dump)),
        ("unknown-type", record(99, 1, &[1, 2, 3])),
        ("cut", record(16, 4, &bgp4mp(4, &plain))[..40].to_vec()),
        (
            "length-of-gigabytes",
            vec![0, 0, 0, 0, 0, 16, 0, 4, 0xff, 0, 0, 0],
        ),
    ];
    let bmp_rows = bmp_rows
        .into_iter()
        .map(|(name, stream)| (Target::Bmp, name, 0, stream));
    let mrt_rows = mrt_rows
        .into_iter()
        .map(|(name, stream)| (Target::Mrt, name, 0, stream));
    bmp_rows.chain(mrt_rows).collect()
}
