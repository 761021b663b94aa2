//! Recordings that other implementations made, and what those say of them.
//!
//! They are not part of the repository: they are looked for in `../shared/data` next to the workspace,
//! or where `NETWATCH_SHARED_DATA` says.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use bgp_feed::archive::{Format, Source};
use bgp_feed::archive_replay::{ByFamily, Options, Replay, Treatments};

fn data(file: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NETWATCH_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(file);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

fn replay(path: &Path) -> Replay {
    let mut source = Source::open(path).unwrap();
    let format = Format::recognize(&source.head).expect("a format");
    let mut replay = Replay::new(format, Options::default());
    let mut chunk = vec![0; 10_007];
    loop {
        let count = source.reader.read(&mut chunk).unwrap();
        if count == 0 || !replay.push(&chunk[..count]) {
            break;
        }
    }
    replay.finish();
    replay
}

fn routes(replay: &Replay) -> (u64, u64) {
    replay.tables().sizes().fold((0, 0), |sum, (_, size)| {
        (sum.0 + size.ipv4, sum.1 + size.ipv6)
    })
}

fn lines(replay: &Replay) -> String {
    let mut bytes = Vec::new();
    replay.tables().write_lines(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// The routes that `bgpdump` finds in the end: peer, prefix, path identifier, AS_PATH and origin.
/// `None` where it is not installed.
fn bgpdump(path: &Path) -> Option<BTreeSet<String>> {
    let Ok(output) = Command::new("bgpdump").arg("-m").arg(path).output() else {
        println!("bgpdump is not there: no judge for {}", path.display());
        return None;
    };
    let mut routes = std::collections::BTreeMap::new();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let (peer, prefix) = (fields[3], fields.get(5).copied().unwrap_or_default());
        // With ADD-PATH there is the identifier after the prefix.
        let (id, path) = if fields[0].ends_with("_AP") {
            (fields[6], &fields[7..])
        } else {
            ("-", &fields[6.min(fields.len())..])
        };
        let key = format!("{peer}|{prefix}|{id}");
        match fields[2] {
            "A" | "B" => routes.insert(key, format!("{}|{}", path[0], path[1].to_lowercase())),
            "W" => routes.remove(&key),
            _ => None,
        };
    }
    let line = |(key, value)| format!("{key}|{value}");
    Some(routes.into_iter().map(line).collect())
}

/// The same of ours.
fn ours(replay: &Replay) -> BTreeSet<String> {
    lines(replay)
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').collect();
            let peer = fields[0].split('@').next().unwrap();
            let path = if fields[4] == "-" { "" } else { fields[4] };
            format!("{peer}|{}|{}|{path}|{}", fields[1], fields[2], fields[3])
        })
        .collect()
}

/// Apart from routes that only one of both has, `but` says how many of theirs.
fn judged(path: &Path, replay: &Replay, but: usize) {
    let Some(theirs) = bgpdump(path) else { return };
    let ours = ours(replay);
    let only_ours: Vec<_> = ours.difference(&theirs).take(5).collect();
    assert_eq!(only_ours, Vec::<&String>::new(), "{}", path.display());
    assert_eq!(theirs.difference(&ours).count(), but, "{}", path.display());
    println!(
        "{}: {} routes as bgpdump reads them",
        path.display(),
        ours.len()
    );
}

#[test]
fn a_full_feed_of_extended_records() {
    let Some(path) = data("mrt/updates.et-header.2015.gz") else {
        return;
    };
    let replay = replay(&path);
    let summary = replay.summary();
    assert_eq!(summary.records["BGP4MP_ET/MESSAGE_AS4"], 89_681);
    assert_eq!(summary.messages["update"], 89_679);
    assert_eq!((summary.problem_count, summary.total()), (0, 89_686));
    let counts = summary.neighbors.values().next().unwrap();
    // bgpdump: 577,737 announcements, four of them in an UPDATE with AS 0 in its path, which counts
    // as withdrawn (RFC 7607), and 3 withdrawals.
    assert_eq!(
        counts.announced,
        ByFamily {
            ipv4: 577_733,
            ipv6: 0
        }
    );
    assert_eq!(counts.withdrawn, ByFamily { ipv4: 7, ipv6: 0 });
    assert_eq!(summary.treatments.treat_as_withdraw, 1);
    assert_eq!(summary.treatments.session_reset, 0);
    assert_eq!(routes(&replay), (577_699, 0));
    judged(&path, &replay, 4);
}

#[test]
fn a_table_of_2002() {
    let Some(path) = data("mrt/bview.20020722.2337.gz") else {
        return;
    };
    let replay = replay(&path);
    assert_eq!(replay.summary().records["TABLE_DUMP/AFI_IPv4"], 115_521);
    assert_eq!(replay.summary().problem_count, 0);
    assert_eq!(replay.summary().treatments.treat_as_withdraw, 0);
    judged(&path, &replay, 0);
}

#[test]
fn tables_with_path_identifiers() {
    for (file, expected) in [
        ("mrt/bview.ipv4_unicast_add_path.gz", (60, 0)),
        ("mrt/bview.ipv6_unicast_add_path.gz", (0, 60)),
    ] {
        let Some(path) = data(file) else { continue };
        let replay = replay(&path);
        assert_eq!(routes(&replay), expected, "{file}");
        // Two routes of the router's own have neither ORIGIN nor AS_PATH.
        let treatments = Treatments {
            treat_as_withdraw: 2,
            ..Treatments::default()
        };
        assert_eq!(replay.summary().treatments, treatments);
        judged(&path, &replay, 2);
    }
}

#[test]
fn long_withdrawals() {
    let Some(path) = data("mrt/updates.long_withdrawal.gz") else {
        return;
    };
    let replay = replay(&path);
    let counts = replay.summary().neighbors.values().next().unwrap();
    assert_eq!(
        counts.withdrawn,
        ByFamily {
            ipv4: 0,
            ipv6: 4096
        }
    );
    assert_eq!(replay.summary().problem_count, 0);
}

#[test]
fn what_an_archive_lacks_at_its_end_is_told_and_the_rest_remains() {
    let Some(path) = data("mrt/bview.ipv4_unicast_add_path.gz") else {
        return;
    };
    let mut source = Source::open(&path).unwrap();
    let mut bytes = Vec::new();
    source.reader.read_to_end(&mut bytes).unwrap();
    bytes.truncate(bytes.len() - 1);
    let mut replay = Replay::new(Format::Mrt, Options::default());
    assert!(replay.push(&bytes));
    replay.finish();
    assert_eq!(routes(&replay), (58, 0));
    let problem = &replay.summary().problems[0];
    assert!(
        problem.text.contains("the archive ends after"),
        "{problem:?}"
    );
    // 31 records of routes and one of peers; the last one's place.
    let total = u64::try_from(bytes.len() + 1).unwrap();
    assert!(
        problem.offset < total && problem.offset > total - 200,
        "{problem:?}"
    );
}

#[test]
fn captured_sessions_and_monitored_routers() {
    if let Some(path) = data("bgp/multiple-sessions.pcap") {
        let replay = replay(&path);
        assert_eq!(replay.summary().problem_count, 0);
        assert_eq!(replay.summary().messages["open"], 20);
        assert_eq!(routes(&replay), (50, 30));
    }
    if let Some(path) = data("bmp/stateless-with-add-path.pcap") {
        let replay = replay(&path);
        assert_eq!(replay.summary().problem_count, 0);
        let text = lines(&replay);
        // Whether there are path identifiers differs by peer and direction.
        for line in [
            "1.1.1.1@bmp:192.85.2.1/in-pre|111.1.1.1/32|0|",
            "1.1.1.1@bmp:192.85.2.1/out-pre|112.1.1.1/32|-|",
            "3.3.3.3@bmp:192.85.2.1/out-post|112.1.1.1/32|0|",
            "192.85.2.1@bmp:192.85.2.1/loc|112.1.1.1/32|-|",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
