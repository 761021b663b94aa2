//! Messages that are nearly right, and mutations of them.

use crate::generate_stations;
use crate::random::Random;
use crate::targets::Target;

/// An input for a target: made anew, or out of the corpus, and then changed a little.
pub fn input(target: Target, random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = match random.pick(corpus) {
        Some(input) if random.once_in(3) => input.clone(),
        _ => fresh(target, random),
    };
    if !random.once_in(3) {
        for _ in 0..=random.below(4) {
            mutate(&mut input, random, corpus);
        }
    }
    input
}

fn fresh(target: Target, random: &mut Random) -> Vec<u8> {
    let mut input = vec![random.octet(), random.octet()];
    for _ in 0..=random.below(2) {
        let (kind, body) = match target {
            Target::Update => (2, update(random)),
            Target::Open => (1, open(random)),
            Target::Bmp => return [input, generate_stations::bmp(random)].concat(),
            Target::Mrt => return [input, generate_stations::mrt(random)].concat(),
        };
        input.extend(message(kind, &body, random));
    }
    input
}

pub(crate) fn message(kind: u8, body: &[u8], random: &mut Random) -> Vec<u8> {
    let kind = if random.once_in(30) {
        random.octet() % 7
    } else {
        kind
    };
    let mut length = u16::try_from(body.len() + 19).unwrap_or(u16::MAX);
    if random.once_in(40) {
        length = length
            .wrapping_add(u16::from(random.octet() % 9))
            .wrapping_sub(4);
    }
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

pub(crate) fn short(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

pub(crate) fn update(random: &mut Random) -> Vec<u8> {
    let add_path = random.once_in(3);
    let withdrawn = if random.once_in(2) {
        nlri(random, 32, add_path)
    } else {
        Vec::new()
    };
    let announced = if random.once_in(4) {
        Vec::new()
    } else {
        nlri(random, 32, add_path)
    };
    let mut attributes = Vec::new();
    let wide = !random.once_in(4);
    // The mandatory ones, mostly; then some more.
    for kind in [1, 2, 3] {
        if !random.once_in(20) {
            attributes.extend(attribute(random, kind, wide));
        }
    }
    for _ in 0..random.below(5) {
        let kind = match random.below(4) {
            0 => random.octet(),
            1 => *random.pick(&[14, 15]).unwrap_or(&14),
            _ => {
                let kinds = [
                    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 18, 25, 32, 35, 40, 128,
                ];
                *random.pick(&kinds).unwrap_or(&4)
            }
        };
        attributes.extend(attribute(random, kind, wide));
    }
    [
        &short(&withdrawn)[..],
        &withdrawn,
        &short(&attributes),
        &attributes,
        &announced,
    ]
    .concat()
}

fn nlri(random: &mut Random, bits: u8, add_path: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(6) {
        if add_path {
            bytes.extend([0, 0, random.octet() % 3, random.octet()]);
        }
        let length = match random.below(8) {
            0 => 0,
            1 => bits,
            _ => random.octet() % (bits + 1),
        };
        bytes.push(length);
        bytes.extend(random.octets(usize::from(length.div_ceil(8))));
    }
    bytes
}

fn attribute(random: &mut Random, kind: u8, wide: bool) -> Vec<u8> {
    let flags = match kind {
        1 | 2 | 3 | 5 | 6 => 0x40,
        4 | 9 | 10 | 14 | 15 => 0x80,
        _ => 0xc0,
    };
    let width = if wide { 4 } else { 2 };
    let many = |random: &mut Random, of: usize| {
        let count = 1 + random.below(4);
        random.octets(count * of)
    };
    let mut value = match kind {
        1 => vec![random.octet() % 4],
        2 => path(random, width),
        17 => path(random, 4),
        3 => vec![192, 0, 2, random.octet()],
        4 | 5 | 9 | 35 => random.octets(4),
        6 => Vec::new(),
        7 => random.octets(width + 4),
        18 => random.octets(8),
        8 | 10 => many(random, 4),
        16 => many(random, 8),
        25 => many(random, 20),
        32 => many(random, 12),
        14 => reach(random),
        15 => {
            let (afi, bits) = if random.once_in(2) { (1, 32) } else { (2, 128) };
            let add_path = random.once_in(3);
            [vec![0, afi, 1], nlri(random, bits, add_path)].concat()
        }
        _ => {
            let count = random.below(12);
            random.octets(count)
        }
    };
    if random.once_in(25) {
        let length = random.below(value.len() + 3);
        value.resize(length, 0);
    }
    let flags = if random.once_in(40) {
        random.octet()
    } else {
        flags
    };
    if flags & 0x10 != 0 || value.len() > 255 || random.once_in(5) {
        return [&[flags | 0x10, kind][..], &short(&value), &value].concat();
    }
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    [&[flags, kind, length][..], &value].concat()
}

fn path(random: &mut Random, width: usize) -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..random.below(4) {
        let kind = if random.once_in(6) {
            random.octet() % 6
        } else {
            2
        };
        let count = if random.once_in(25) {
            0
        } else {
            1 + random.below(4)
        };
        value.extend([kind, u8::try_from(count).unwrap_or(0)]);
        value.extend(random.octets(count * width));
    }
    value
}

fn reach(random: &mut Random) -> Vec<u8> {
    let ipv4 = random.once_in(3);
    let (afi, bits) = if ipv4 { (1, 32) } else { (2, 128) };
    let safi = if random.once_in(10) {
        random.octet()
    } else {
        1
    };
    let mut hop = match random.below(8) {
        0 if ipv4 => vec![192, 0, 2, 1],
        0..=5 => [&[0x20, 1, 0x0d, 0xb8][..], &random.octets(12)].concat(),
        6 => [
            &[0x20, 1, 0x0d, 0xb8][..],
            &random.octets(12),
            &[0xfe, 0x80],
            &random.octets(14),
        ]
        .concat(),
        _ => {
            let count = random.below(40);
            random.octets(count)
        }
    };
    if ipv4 && random.once_in(2) {
        hop = vec![192, 0, 2, random.octet()];
    }
    let length = u8::try_from(hop.len()).unwrap_or(0);
    let add_path = random.once_in(3);
    let nlri = nlri(random, bits, add_path);
    [&[0, afi, safi, length][..], &hop, &[0], &nlri].concat()
}

pub(crate) fn open(random: &mut Random) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for _ in 0..random.below(8) {
        let number = match random.below(5) {
            0 => random.octet(),
            _ => *random
                .pick(&[1, 1, 2, 5, 6, 9, 64, 65, 69, 70, 71, 73])
                .unwrap_or(&1),
        };
        let family = [0, 1 + random.octet() % 2, 1];
        let mut value = match number {
            1 => vec![0, family[1], 0, 1],
            5 => vec![0, 1, 0, 1, 0, 2],
            9 => vec![random.octet() % 6],
            64 => [&random.octets(2)[..], &family, &[random.octet()]].concat(),
            65 => random.octets(4),
            69 => [&family[..], &[random.octet() % 5]].concat(),
            2 | 6 | 70 => Vec::new(),
            _ => {
                let count = random.below(9);
                random.octets(count)
            }
        };
        if random.once_in(12) {
            let length = random.below(value.len() + 4);
            value.resize(length, 1);
        }
        capabilities.push(number);
        capabilities.push(u8::try_from(value.len()).unwrap_or(0));
        capabilities.extend(value);
    }
    let version = if random.once_in(20) {
        random.octet()
    } else {
        4
    };
    let asn = if random.once_in(20) {
        0
    } else {
        random.octet()
    };
    let hold = if random.once_in(5) {
        random.octet() % 5
    } else {
        90
    };
    let mut body = vec![version, 0x5b, asn, 0, hold, 192, 0, 2, random.octet()];
    if random.once_in(20) {
        body.splice(5..9, [0; 4]);
    }
    let length = u8::try_from(capabilities.len()).unwrap_or(u8::MAX);
    match random.below(6) {
        // RFC 9072.
        0 => {
            body.extend([255, 255]);
            body.extend(short(&[&capabilities[..], &[0; 3]].concat()));
            body.push(2);
            body.extend(short(&capabilities));
        }
        _ if capabilities.is_empty() => body.push(0),
        _ => body.extend([length.saturating_add(2), 2, length]),
    }
    body.extend(capabilities);
    body
}

/// Changes an input in one place.
fn mutate(input: &mut Vec<u8>, random: &mut Random, corpus: &[Vec<u8>]) {
    let at = random.below(input.len());
    match random.below(9) {
        0 | 1 => {
            if let Some(octet) = input.get_mut(at) {
                *octet = random.octet();
            }
        }
        2 => {
            if let Some(octet) = input.get_mut(at) {
                *octet ^= 1 << random.below(8);
            }
        }
        3 => {
            let interesting = [0, 1, 2, 4, 24, 32, 33, 127, 128, 129, 254, 255];
            if let Some(octet) = input.get_mut(at) {
                *octet = *random.pick(&interesting).unwrap_or(&0);
            }
        }
        4 => input.truncate(at),
        5 => input.insert(at, random.octet()),
        6 => {
            let end = (at + random.below(6)).min(input.len());
            input.drain(at..end);
        }
        7 => {
            let end = (at + random.below(40)).min(input.len());
            let copy: Vec<u8> = input.get(at..end).unwrap_or_default().to_vec();
            let to = random.below(input.len());
            input.splice(to..to, copy);
        }
        _ => {
            if let Some(other) = random.pick(corpus) {
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
        }
    }
    input.truncate(70_000);
}
