//! The corpus: every row of the codec's traps as an input, replayed like anything that was ever
//! found. `NETWATCH_WRITE_CORPUS=1` writes the rows anew; found inputs are added as files.

mod stations;

use std::path::{Path, PathBuf};

use bgp_fuzz::generate;
use bgp_fuzz::random::Random;
use bgp_fuzz::targets::Target;

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 3, 0x39, 0xc4];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const REACH: &[u8] = &[
    0x80, 14, 26, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 32, 0x20,
    1, 0xd, 0xb8,
];
const TEN: &[u8] = &[8, 10];
const PLAIN: u8 = 0xe0;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 19).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}

fn update(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = counted(&attributes.concat());
    message(2, &[counted(withdrawn), attributes, nlri.to_vec()].concat())
}

fn open(version: u8, asn: u8, hold: u8, id: u8, capabilities: &[u8]) -> Vec<u8> {
    let length = u8::try_from(capabilities.len()).unwrap();
    let fixed = [version, 0, asn, 0, hold, id, 0, 0, id];
    let parameters = match capabilities {
        [] => vec![0],
        _ => [&[length + 2, 2, length], capabilities].concat(),
    };
    message(1, &[&fixed[..], &parameters].concat())
}

fn rows() -> Vec<(Target, &'static str, u8, Vec<u8>)> {
    let default_first: &[u8] = &[0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
    let keepalive = message(4, &[]);
    let mut bad_marker = keepalive.clone();
    bad_marker[3] = 0;
    let truncated = update(&[], &[ORIGIN, PATH, HOP], TEN)[..40].to_vec();
    let prefix_sid = [&[0xc0, 40, 3][..], &[1, 0, 7]].concat();
    let updates: Vec<(&str, u8, Vec<u8>)> = vec![
        (
            "default-route-first",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP], default_first),
        ),
        (
            "default-route-first-withdrawn",
            PLAIN,
            update(default_first, &[], &[]),
        ),
        (
            "default-route-first-add-path",
            PLAIN | 4,
            update(&[], &[ORIGIN, PATH, HOP], default_first),
        ),
        (
            "withdrawn-of-33",
            PLAIN,
            update(&[33, 1, 2, 3, 4, 5], &[], &[]),
        ),
        (
            "reach",
            PLAIN,
            update(&[8, 11], &[ORIGIN, PATH, HOP, REACH], TEN),
        ),
        (
            "reach-cut",
            PLAIN,
            update(&[], &[ORIGIN, PATH, &[0x80, 14, 4, 0, 2, 1, 16]], &[]),
        ),
        (
            "reach-twice",
            PLAIN,
            update(&[], &[ORIGIN, PATH, REACH, REACH], &[]),
        ),
        (
            "reach-overruns",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &REACH[..20]], TEN),
        ),
        (
            "unreach-cut",
            PLAIN,
            update(&[], &[&[0x80, 15, 5, 0, 2, 1, 32, 1]], &[]),
        ),
        (
            "attribute-overrun",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &[0x80, 4, 9, 0]], TEN),
        ),
        (
            "attribute-trailing",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &[0x80]], TEN),
        ),
        (
            "path-count-0",
            PLAIN,
            update(&[], &[ORIGIN, &[0x40, 2, 2, 2, 0], HOP], TEN),
        ),
        (
            "unknown-well-known",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &[0x40, 99, 0]], TEN),
        ),
        (
            "origin-twice",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, ORIGIN], TEN),
        ),
        (
            "prefix-sid",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &prefix_sid], TEN),
        ),
        (
            "otc-1024",
            PLAIN,
            update(&[], &[ORIGIN, PATH, HOP, &[0xf0, 35, 4, 0, 0, 0, 1]], TEN),
        ),
        (
            "otc-leak",
            0x60,
            update(&[], &[ORIGIN, PATH, HOP, &[0xc0, 35, 4, 0, 0, 0, 1]], TEN),
        ),
        (
            "as4-path",
            PLAIN | 1,
            update(
                &[],
                &[
                    ORIGIN,
                    &[0x40, 2, 6, 2, 2, 0, 10, 0x5b, 0xa0],
                    HOP,
                    &[0xc0, 17, 6, 2, 1, 0, 3, 0x39, 0xc4],
                    &[0xc0, 7, 6, 0x5b, 0xa0, 192, 0, 2, 1],
                    &[0xc0, 18, 8, 0, 3, 0x39, 0xc4, 192, 0, 2, 1],
                ],
                TEN,
            ),
        ),
        ("end-of-rib", PLAIN, update(&[], &[], &[])),
        (
            "end-of-rib-ipv6",
            PLAIN,
            update(&[], &[&[0x80, 15, 3, 0, 2, 1]], &[]),
        ),
        ("truncated", PLAIN, truncated),
        ("bad-marker", PLAIN, bad_marker),
        ("keepalive-of-20", PLAIN, message(4, &[0])),
        ("shutdown", PLAIN, message(3, b"\x06\x02\x05hello")),
        ("hard-reset", PLAIN, message(3, b"\x06\x09\x06\x02\x03bye")),
        ("route-refresh-end", PLAIN, message(5, &[0, 2, 2, 1])),
        ("route-refresh-of-24", PLAIN, message(5, &[0, 2, 2, 1, 0])),
        (
            "three-messages",
            PLAIN,
            [keepalive.clone(), update(TEN, &[], &[]), keepalive].concat(),
        ),
    ];
    let all: &[u8] = &[
        1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 5, 6, 0, 1, 0, 1, 0, 2, 6, 0, 9, 1, 3, 64, 6,
        0xc0, 120, 0, 1, 1, 0x80, 65, 4, 0, 3, 0x39, 0xc4, 69, 8, 0, 1, 1, 3, 0, 2, 1, 1, 70, 0,
        73, 2, 1, 0x72,
    ];
    let opens: Vec<(&str, Vec<u8>)> = vec![
        ("plain", open(4, 1, 90, 1, &[])),
        ("all-capabilities", open(4, 1, 90, 1, all)),
        ("version-5", open(5, 1, 90, 1, &[])),
        ("as-0", open(4, 0, 90, 1, &[])),
        ("hold-1", open(4, 1, 1, 1, &[])),
        ("id-0", open(4, 1, 90, 0, &[])),
        ("two-roles", open(4, 1, 90, 1, &[9, 1, 0, 9, 1, 4])),
        ("capability-cut", open(4, 1, 90, 1, &[65, 4, 0])),
        (
            "rfc-9072",
            message(
                1,
                &[
                    4, 0, 1, 0, 90, 1, 0, 0, 1, 255, 255, 0, 9, 2, 0, 6, 65, 4, 0, 3, 0x39, 0xc4,
                ],
            ),
        ),
    ];
    let updates = updates
        .into_iter()
        .map(|(name, how, stream)| (Target::Update, name, how, stream));
    let opens = opens
        .into_iter()
        .map(|(name, stream)| (Target::Open, name, 0, stream));
    updates.chain(opens).chain(stations::rows()).collect()
}

fn directory(target: Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name())
}

fn files(target: Target) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn the_corpus_has_every_row_and_holds() {
    for (target, name, how, stream) in rows() {
        let file = directory(target).join(name);
        let input = [&[how, 6][..], &stream].concat();
        if std::env::var_os("NETWATCH_WRITE_CORPUS").is_some() {
            std::fs::write(&file, &input).unwrap();
        }
        let committed = std::fs::read(&file);
        assert_eq!(committed.ok(), Some(input), "{}", file.display());
    }
    for target in Target::ALL {
        let files = files(target);
        assert!(files.len() >= 8);
        for input in files {
            target.run(&input);
        }
    }
}

/// The inputs that cost most for their size: nothing but default routes, segments of one member,
/// errors.
#[test]
fn the_costliest_inputs_stay_within_their_bounds() {
    let routes = vec![0; 30_000];
    let path: Vec<u8> = [2, 1, 0, 9].repeat(7000);
    let path = [&[0x50, 2][..], &counted(&path)].concat();
    let errors = ORIGIN.repeat(15_000);
    for (how, stream) in [
        (PLAIN, update(&routes, &[ORIGIN, PATH, HOP], &routes)),
        (PLAIN | 1, update(&[], &[ORIGIN, &path, HOP], TEN)),
        (PLAIN, update(&[], &[&errors, PATH, HOP], TEN)),
    ] {
        // Bit 7: extended messages.
        Target::Update.run(&[&[how, 0xff][..], &stream].concat());
    }
}

/// The same inputs on every machine, and enough that a broken target shows.
#[test]
fn a_while_of_random_input() {
    for target in Target::ALL {
        let corpus = files(target);
        let mut random = Random::new(20);
        for _ in 0..50_000 {
            target.run(&generate::input(target, &mut random, &corpus));
        }
    }
}
