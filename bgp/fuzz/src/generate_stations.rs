//! BMP streams and MRT archives that are nearly right.

use crate::generate::{message, open, short, update};
use crate::random::Random;

/// Some BMP messages; mostly of few peers, so that they have to do with each other.
pub fn bmp(random: &mut Random) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + random.below(5) {
        let kind = match random.below(8) {
            0..=2 => 0,
            3 | 4 => 3,
            _ => random.octet() % 8,
        };
        let version = match random.below(12) {
            0 => 4,
            1 if random.once_in(20) => random.octet(),
            _ => 3,
        };
        let body = bmp_body(random, kind, version);
        let mut length = u32::try_from(body.len() + 6).unwrap_or(0);
        if random.once_in(40) {
            length = length
                .wrapping_add(random.next() as u32 % 9)
                .wrapping_sub(4);
        }
        stream.extend([&[version][..], &length.to_be_bytes(), &[kind], &body].concat());
    }
    stream
}

fn peer(random: &mut Random) -> Vec<u8> {
    let kind = if random.once_in(12) {
        random.octet() % 5
    } else {
        [0, 0, 0, 1, 3][random.below(5)]
    };
    let flags = if random.once_in(3) {
        random.octet() & 0xf0
    } else {
        [0, 0x40, 0x10, 0x50][random.below(4)]
    };
    let mut bytes = vec![kind, flags];
    bytes.extend([0, 0, 0, 0, 0, 0, 0, random.octet() % 2]);
    bytes.extend([0; 12]);
    bytes.extend([192, 0, 2, 1 + random.octet() % 3]);
    bytes.extend([0, 0, 0xfc, random.octet() % 3]);
    bytes.extend([192, 0, 2, 9]);
    bytes.extend(random.octets(8));
    bytes
}

fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &short(value), value].concat()
}

fn information(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(3) {
        let count = random.below(12);
        let value = random.octets(count);
        bytes.extend(tlv(u16::from(random.octet() % 5), &value));
    }
    bytes
}

fn bmp_body(random: &mut Random, kind: u8, version: u8) -> Vec<u8> {
    let body = match kind {
        0 => {
            let update = update(random);
            let pdu = message(2, &update, random);
            if version != 4 {
                pdu
            } else {
                let mut bytes = Vec::new();
                let indexed = |kind: u16, value: &[u8]| {
                    [&kind.to_be_bytes()[..], &short(value), &[0, 0], value].concat()
                };
                if random.once_in(2) {
                    bytes.extend(indexed(1, &[69, 4, 0, 1, 1, random.octet() % 4]));
                }
                if random.once_in(2) {
                    bytes.extend(indexed(3, b"global"));
                }
                bytes.extend(indexed(4, &pdu));
                bytes
            }
        }
        1 => {
            let count = random.octet() % 4;
            let mut bytes = vec![0, 0, 0, count];
            for _ in 0..count {
                let length = [4, 8, 11][random.below(3)];
                let value = random.octets(length);
                bytes.extend(tlv(u16::from(random.octet() % 20), &value));
            }
            bytes
        }
        2 => {
            let reason = 1 + random.octet() % 7;
            let rest = match reason {
                1 | 3 => message(3, &[6, random.octet() % 10], random),
                2 => vec![0, random.octet() % 30],
                _ => Vec::new(),
            };
            [&[reason][..], &rest].concat()
        }
        3 => {
            let mut bytes = [&[0; 12][..], &[192, 0, 2, 9, 0, 179, 0xc0, 1]].concat();
            for _ in 0..2 {
                let open = open(random);
                bytes.extend(message(1, &open, random));
            }
            bytes.extend(information(random));
            bytes
        }
        4 => return information(random),
        5 => return [tlv(1, &[0, random.octet() % 6]), information(random)].concat(),
        _ => {
            let count = random.below(20);
            random.octets(count)
        }
    };
    [peer(random), body].concat()
}

/// Some records.
pub fn mrt(random: &mut Random) -> Vec<u8> {
    let mut stream = Vec::new();
    if random.once_in(2) {
        let peers = peer_index(random.octet() % 4);
        stream.extend(record(random, 13, 1, &peers));
    }
    for _ in 0..1 + random.below(4) {
        let (kind, subtype, body) = match random.below(6) {
            0 => {
                let subtype = 1 + random.octet() % 2;
                (12, subtype, table_dump(random, subtype == 2))
            }
            1 | 2 => {
                let subtype = [2, 2, 4, 8, 10, 6][random.below(6)];
                (13, subtype, rib(random, subtype))
            }
            _ => {
                let subtype = if random.once_in(10) {
                    random.octet() % 14
                } else {
                    [0, 1, 4, 5, 7, 8, 9][random.below(7)]
                };
                let kind = if random.once_in(3) { 17 } else { 16 };
                let body = bgp4mp(random, subtype);
                let micros = if kind == 17 { &[0, 1, 2, 3][..] } else { &[] };
                (kind, subtype, [micros, &body].concat())
            }
        };
        stream.extend(record(random, kind, subtype, &body));
    }
    stream
}

fn record(random: &mut Random, kind: u8, subtype: u8, body: &[u8]) -> Vec<u8> {
    let mut length = u32::try_from(body.len()).unwrap_or(0);
    if random.once_in(40) {
        length = length
            .wrapping_add(random.next() as u32 % 9)
            .wrapping_sub(4);
    }
    let header = [0x56, 0x8e, 0x53, random.octet(), 0, kind, 0, subtype];
    [&header[..], &length.to_be_bytes(), body].concat()
}

fn peer_index(count: u8) -> Vec<u8> {
    let mut bytes = vec![192, 0, 2, 1, 0, 2, b'm', b'x', 0, count];
    for number in 0..count {
        let six = number % 2 == 1;
        bytes.push(if six { 3 } else { 2 });
        bytes.extend([192, 0, 2, number]);
        bytes.extend(if six {
            vec![0x20; 16]
        } else {
            vec![192, 0, 2, number]
        });
        bytes.extend([0, 0, 0xfc, number]);
    }
    bytes
}

/// The attributes of an UPDATE.
fn attributes(random: &mut Random) -> Vec<u8> {
    let update = update(random);
    let withdrawn = usize::from(u16::from_be_bytes([update[0], update[1]]));
    let from = 2 + withdrawn;
    let length = usize::from(u16::from_be_bytes([update[from], update[from + 1]]));
    update[from + 2..from + 2 + length].to_vec()
}

fn table_dump(random: &mut Random, six: bool) -> Vec<u8> {
    let address = if six { 16 } else { 4 };
    let mut bytes = vec![0, 0, 0, 1];
    bytes.extend(random.octets(address));
    bytes.extend([random.octet() % 34, 1, 0, 0, 0, 0]);
    bytes.extend(random.octets(address));
    bytes.extend([0xfc, 1]);
    let attributes = attributes(random);
    bytes.extend(short(&attributes));
    bytes.extend(attributes);
    bytes
}

fn rib(random: &mut Random, subtype: u8) -> Vec<u8> {
    let length = random.octet() % if matches!(subtype, 4 | 10) { 130 } else { 34 };
    let mut bytes = vec![0, 0, 0, 1, length];
    bytes.extend(random.octets(usize::from(length.div_ceil(8))));
    let count = random.octet() % 4;
    bytes.extend([0, count]);
    for _ in 0..count {
        bytes.extend([0, random.octet() % 4, 0, 0, 0, 0]);
        if matches!(subtype, 8 | 10) {
            bytes.extend([0, 0, 0, random.octet()]);
        }
        let attributes = attributes(random);
        bytes.extend(short(&attributes));
        bytes.extend(attributes);
    }
    bytes
}

fn bgp4mp(random: &mut Random, subtype: u8) -> Vec<u8> {
    let wide = matches!(subtype, 4 | 5 | 7 | 9 | 11);
    let asn: &[u8] = if wide { &[0, 0, 0xfc, 1] } else { &[0xfc, 1] };
    let afi = 1 + random.octet() % 2;
    let address = if afi == 2 { 16 } else { 4 };
    let mut bytes = [asn, asn, &[0, 0, 0, afi]].concat();
    bytes.extend(random.octets(2 * address));
    if matches!(subtype, 0 | 5) {
        bytes.extend([0, 1 + random.octet() % 6, 0, 1 + random.octet() % 6]);
        return bytes;
    }
    let (kind, body) = match random.below(6) {
        0 => (1, open(random)),
        1 => (4, Vec::new()),
        _ => (2, update(random)),
    };
    bytes.extend(message(kind, &body, random));
    bytes
}
