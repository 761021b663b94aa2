//! `netwatch bgp decode`: dispositions, forms of input, and what other implementations recorded.
//!
//! The recordings are looked for in `../shared/data` next to the workspace, or where
//! `NETWATCH_SHARED_DATA` says.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{NETWATCH, netwatch};
use serde_json::{Value, json};

const ORIGIN: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 3, 0x39, 0xc4];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];
const TEN: &[u8] = &[8, 10];

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 19).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

fn update(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let counted = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let attributes = counted(&attributes.concat());
    message(2, &[counted(withdrawn), attributes, nlri.to_vec()].concat())
}

fn open(version: u8, hold: u8, id: u8) -> Vec<u8> {
    message(1, &[version, 0xfb, 0xf4, 0, hold, id, 0, 0, id, 0])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn lines(stdout: &str) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).expect("a line of JSON");
    stdout.lines().map(line).collect()
}

fn decoded(bytes: &[u8], options: &[&str]) -> Vec<Value> {
    let hex = hex(bytes);
    let arguments = [&["bgp", "decode", "--json", "--hex", &hex], options].concat();
    lines(&netwatch(&arguments).stdout)
}

/// The rows of traps that parsers fall into; codes by RFC 4271 section 6, dispositions by RFC 7606.
#[test]
fn dispositions() {
    let default_first: &[u8] = &[0, 24, 10, 0, 1, 24, 10, 0, 2, 24, 10, 0, 3, 16, 10, 9];
    let mut marker = message(4, &[]);
    marker[0] = 0;
    let unknown: &[u8] = &[0x40, 99, 0];
    let reset = |code: u8, subcode: u8| Some((code, subcode));
    type Case = (&'static str, Vec<u8>, &'static str, Option<(u8, u8)>);
    let cases: Vec<Case> = vec![
        ("KEEPALIVE", message(4, &[]), "accepted", None),
        (
            "of 20 octets",
            message(4, &[0]),
            "session-reset",
            reset(1, 2),
        ),
        ("bad marker", marker, "session-reset", reset(1, 1)),
        ("type 6", message(6, &[]), "session-reset", reset(1, 3)),
        ("OPEN", open(4, 90, 1), "accepted", None),
        ("version 5", open(5, 90, 1), "session-reset", reset(2, 1)),
        ("hold 1", open(4, 1, 1), "session-reset", reset(2, 6)),
        ("id 0.0.0.0", open(4, 90, 0), "session-reset", reset(2, 3)),
        (
            "withdrawn of 33",
            update(&[33, 1, 2, 3, 4, 5], &[], &[]),
            "session-reset",
            reset(3, 10),
        ),
        (
            "MP_REACH_NLRI cut off",
            update(&[], &[ORIGIN, PATH, &[0x80, 14, 2, 0, 2]], &[]),
            "session-reset",
            reset(3, 9),
        ),
        (
            "MP_UNREACH_NLRI cut off",
            update(&[], &[&[0x80, 15, 5, 0, 2, 1, 32, 1]], &[]),
            "session-reset",
            reset(3, 9),
        ),
        (
            "unknown well-known attribute",
            update(&[], &[ORIGIN, PATH, HOP, unknown], TEN),
            "session-reset",
            reset(3, 2),
        ),
        (
            "attribute overrun",
            update(&[], &[ORIGIN, PATH, HOP, &[0x80, 4, 9, 0]], TEN),
            "treat-as-withdraw",
            None,
        ),
        (
            "trailing octet",
            update(&[], &[ORIGIN, PATH, HOP, &[0x80]], TEN),
            "treat-as-withdraw",
            None,
        ),
        (
            "AS_PATH count 0",
            update(&[], &[ORIGIN, &[0x40, 2, 2, 2, 0], HOP], TEN),
            "treat-as-withdraw",
            None,
        ),
        (
            "ORIGIN twice",
            update(&[], &[ORIGIN, PATH, HOP, ORIGIN], TEN),
            "attribute-discard",
            None,
        ),
        (
            "default route first",
            update(&[], &[ORIGIN, PATH, HOP], default_first),
            "accepted",
            None,
        ),
    ];
    for (name, bytes, disposition, reset) in cases {
        let found = decoded(&bytes, &[]);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let line = &found[0];
        assert_eq!(line["disposition"], disposition, "{name}: {line}");
        assert_eq!(line["length"], bytes.len(), "{name}");
        let code = line["reset"]["code"]
            .as_u64()
            .zip(line["reset"]["subcode"].as_u64());
        let expected = reset.map(|(code, subcode)| (code.into(), subcode.into()));
        assert_eq!(code, expected, "{name}: {line}");
        let accepted = disposition == "accepted";
        assert_eq!(line["reason"].is_null(), accepted, "{name}: {line}");
        if disposition == "treat-as-withdraw" {
            let withdrawn = json!({ "ipv4 unicast": [{ "nlri": "10.0.0.0/8" }] });
            assert_eq!(line["update"]["withdraw"], withdrawn, "{name}");
            assert!(line["update"]["announce"].is_null(), "{name}");
        }
        let code = netwatch(&["bgp", "decode", "--hex", &hex(&bytes)]).code;
        let fails = i32::from(disposition == "session-reset");
        assert_eq!(code, Some(fails), "{name}");
    }
}

#[test]
fn options_say_how_to_read() {
    let nlri = [0, 0, 0, 7, 8, 10];
    let message = update(&nlri, &[], &[]);
    for (family, expected) in [
        (
            "ipv4/unicast",
            json!([{ "nlri": "10.0.0.0/8", "path-id": 7 }]),
        ),
        ("1/1", json!([{ "nlri": "10.0.0.0/8", "path-id": 7 }])),
    ] {
        let line = &decoded(&message, &["--add-path", family, "2/1"])[0];
        assert_eq!(line["update"]["withdraw"]["ipv4 unicast"], expected);
    }
    let line = &decoded(&message, &["--add-path", "ipv6/unicast"])[0];
    assert_eq!(
        line["disposition"], "session-reset",
        "no path identifiers in IPv4"
    );
    let wrong = netwatch(&["bgp", "decode", "--hex", "00", "--add-path", "1/4"]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("ipv4/unicast (1/1)"),
        "{}",
        wrong.stderr
    );

    let old: &[u8] = &[0x40, 2, 4, 2, 1, 0xfb, 0xf4];
    let line = &decoded(&update(&[], &[ORIGIN, old, HOP], TEN), &["--two-byte-as"])[0];
    assert_eq!(
        line["update"]["attribute"]["as-path"]["0"]["value"],
        json!([64500])
    );

    let big = update(&vec![0; 5000], &[], &[]);
    assert_eq!(decoded(&big, &[])[0]["reset"]["subcode"], 2);
    assert_eq!(
        decoded(&big, &["--extended-message"])[0]["disposition"],
        "accepted"
    );

    let preference: &[u8] = &[0x40, 5, 4, 0, 0, 0, 100];
    let message = update(&[], &[ORIGIN, PATH, HOP, preference], TEN);
    assert_eq!(decoded(&message, &[])[0]["disposition"], "accepted");
    let line = &decoded(&message, &["--external"])[0];
    assert_eq!(line["disposition"], "attribute-discard");

    let otc: &[u8] = &[0xc0, 35, 4, 0, 0, 0xfb, 0xf5];
    let message = update(&[], &[ORIGIN, PATH, HOP, otc], TEN);
    let role = ["--neighbor-role", "customer", "--neighbor-as", "64500"];
    let line = &decoded(&message, &role)[0];
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("route leak"), "{line}");
}

#[test]
fn all_forms_of_input_are_read_alike() {
    let bytes = [message(4, &[]), update(TEN, &[], &[])].concat();
    let expected = decoded(&bytes, &[]);
    assert_eq!(expected.len(), 2);
    let colons: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "# two messages\n0x{}\n{}\n",
        hex(&bytes[..19]),
        hex(&bytes[19..])
    );
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("raw", bytes.clone()),
        ("colons", colons.join(":").into_bytes()),
        ("text", text.into_bytes()),
    ] {
        let file = directory.path().join(name);
        std::fs::write(&file, &content).unwrap();
        let path = file.to_str().unwrap();
        let found = lines(&netwatch(&["bgp", "decode", "--json", "--file", path]).ok());
        assert_eq!(found, expected, "{name}");
        let mut child = Command::new(NETWATCH)
            .args(["bgp", "decode", "--json", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&content).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            lines(&String::from_utf8(output.stdout).unwrap()),
            expected,
            "{name}"
        );
    }
}

#[test]
fn broken_input_says_where_and_fails() {
    let keepalive = hex(&message(4, &[]));
    for (input, error) in [
        ("00zz", "'z' at offset 2 (line 1, column 3)"),
        ("000", "offset 2 has only one hexadecimal digit"),
    ] {
        let output = netwatch(&["bgp", "decode", "--hex", input]);
        assert_eq!(output.code, Some(1));
        assert!(output.stderr.contains(error), "{}", output.stderr);
    }
    let missing = netwatch(&["bgp", "decode", "--file", "/nonexistent/messages"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("/nonexistent/messages"));
    // What was sound before is shown.
    let cut = netwatch(&[
        "bgp",
        "decode",
        "--json",
        "--hex",
        &(keepalive.clone() + "FFFF"),
    ]);
    assert_eq!(cut.code, Some(1));
    let found = lines(&cut.stdout);
    assert_eq!(found[0]["disposition"], "accepted");
    assert_eq!(found[1]["disposition"], "incomplete");
    assert_eq!(found[1]["offset"], 19);
    // After a header that is wrong the next message is found again.
    let bad = hex(&message(4, &[0]));
    let found = lines(&netwatch(&["bgp", "decode", "--json", "--hex", &(bad + &keepalive)]).stdout);
    assert_eq!(found[0]["reset"]["subcode"], 2);
    assert_eq!(
        (&found[1]["offset"], &found[1]["disposition"]),
        (&json!(20), &json!("accepted"))
    );
}

/// A capture of one connection, raw IP: sender's port, sequence number, payload.
fn capture(packets: &[(u16, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = [0xa1_b2_c3_d4_u32, 0x0002_0004, 0, 0, 65535, 101]
        .map(u32::to_be_bytes)
        .concat();
    for (port, sequence, payload) in packets {
        let (from, to) = if *port == 179 { (1, 2) } else { (2, 1) };
        let other = if *port == 179 { 50_000_u16 } else { 179 };
        let length = u16::try_from(40 + payload.len()).unwrap();
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, from, 192, 0, 2, to]);
        packet.extend([port.to_be_bytes(), other.to_be_bytes()].concat());
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, 0x10, 255, 255, 0, 0, 0, 0]);
        packet.extend_from_slice(payload);
        let length = u32::from(length);
        bytes.extend([0, 0, length, length].map(u32::to_be_bytes).concat());
        bytes.extend(packet);
    }
    bytes
}

/// RFC 8654 section 4: what may come is for the receiver's capability to say, not the sender's.
#[test]
fn extended_messages_are_taken_by_whoever_offers_to() {
    let plain = open(4, 90, 1);
    let body = [4, 0xfb, 0xf4, 0, 90, 2, 0, 0, 2, 4, 2, 2, 6, 0];
    let extended = message(1, &body);
    let big = update(&vec![0; 5000], &[], &[]);
    for (sender, disposition) in [(179, "accepted"), (50_000, "session-reset")] {
        let sequence = if sender == 179 {
            plain.len()
        } else {
            extended.len()
        };
        let packets = [
            (179, 0, &plain[..]),
            (50_000, 0, &extended),
            (sender, u32::try_from(sequence).unwrap(), &big),
        ];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&capture(&packets)).unwrap();
        let path = file.path().to_str().unwrap();
        let found = lines(&netwatch(&["bgp", "decode", "--json", path]).stdout);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[2]["disposition"], disposition, "{sender}: {found:?}");
    }
}

#[test]
fn an_empty_recording_is_called_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let done = netwatch(&["bgp", "replay", file.path().to_str().unwrap()]);
    assert_eq!(done.code, Some(2));
    assert!(
        done.stderr.contains("there is nothing in it"),
        "{}",
        done.stderr
    );
}

#[test]
fn text_for_people() {
    let bytes = [
        update(&[8, 11], &[ORIGIN, PATH, HOP, &[0x80, 4, 3, 0, 0, 0]], TEN),
        message(3, b"\x06\x02\x07goodbye"),
        message(5, &[0, 2, 2, 1]),
    ];
    let text = netwatch(&["bgp", "decode", "--hex", &hex(&bytes.concat())]).ok();
    assert_eq!(
        text,
        "\
#1 at 0: UPDATE, 53 octets: treat-as-withdraw
    treat-as-withdraw: MULTI_EXIT_DISC (4) has length 3
    ORIGIN IGP, AS_PATH 211396
    withdraws: 11.0.0.0/8, 10.0.0.0/8
#2 at 53: NOTIFICATION, 29 octets: accepted
    6/2 Cease: Administrative Shutdown
    they say: goodbye
#3 at 82: ROUTE-REFRESH, 23 octets: accepted
    end (EoRR) for ipv6 unicast
"
    );
}

/// A file of the shared data; says so where it is not there.
fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NETWATCH_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    if !root.is_dir() {
        println!("skipped: {} is absent", root.display());
        return None;
    }
    Some(root.join(name))
}

#[test]
fn exabgp_recordings_are_decoded_as_exabgp_does() {
    for number in 1..=2 {
        let name = format!("bgp/exabgp-ipv4-unicast-{number}.txt");
        let Some(file) = shared(&name) else { return };
        let text = std::fs::read_to_string(&file).unwrap();
        let theirs = text.lines().find(|line| line.starts_with('{')).unwrap();
        let theirs: Value = serde_json::from_str(theirs).unwrap();
        let path = file.to_str().unwrap();
        let ours = lines(&netwatch(&["bgp", "decode", "--json", "--file", path]).ok());
        assert_eq!(ours.len(), 1);
        assert_eq!(ours[0]["update"], theirs["neighbor"]["message"]["update"]);
        assert_eq!(ours[0]["disposition"], "accepted");
    }
}

/// NetGauze's reading of the capture has the messages to port 179 of some of the connections, in
/// the capture's order: each of them is among ours, in that order, and says the same.
#[test]
fn the_capture_is_decoded_as_netgauze_does() {
    let Some(capture) = shared("bgp/multiple-sessions.pcap") else {
        return;
    };
    let theirs = std::fs::read_to_string(capture.with_extension("json")).unwrap();
    let theirs: Vec<Value> = lines(&theirs).iter().map(netgauze).collect();
    let path = capture.to_str().unwrap();
    let all = lines(&netwatch(&["bgp", "decode", "--json", "--file", path]).ok());
    assert!(all.iter().all(|line| line["disposition"] == "accepted"));
    // Counted by another tool: 20 OPENs in the capture.
    assert_eq!(all.iter().filter(|line| line["type"] == "open").count(), 20);
    let mut ours = all
        .iter()
        .filter(|line| line["to"].as_str().is_some_and(|to| to.ends_with(":179")))
        .map(ours);
    assert!(theirs.len() > 100);
    for (index, message) in theirs.iter().enumerate() {
        assert!(
            ours.any(|candidate| candidate == *message),
            "line {} is not among ours: {message}",
            index + 1
        );
    }
}

/// What both say about a message: ours.
fn ours(line: &Value) -> Value {
    let open = &line["open"];
    if !open.is_null() {
        let capabilities = open["capabilities"].as_array().unwrap();
        let capabilities: Vec<Value> = capabilities
            .iter()
            .map(|capability| match capability["code"].as_u64() {
                Some(1) => capability["family"].clone(),
                Some(65) => capability["asn"].clone(),
                code => json!(code),
            })
            .collect();
        return json!([
            open["version"],
            open["my_as"],
            open["hold_time"],
            open["router_id"],
            capabilities
        ]);
    }
    match (&line["eor"], &line["update"]) {
        (Value::Null, Value::Null) => line["type"].clone(),
        (Value::Null, update) => update.clone(),
        (eor, _) => eor["afi"].clone(),
    }
}

/// Theirs, in the same form.
fn netgauze(line: &Value) -> Value {
    if line == "KeepAlive" {
        return json!("keepalive");
    }
    let open = &line["Open"];
    if !open.is_null() {
        let parameters = open["params"].as_array().unwrap().iter();
        let capabilities: Vec<Value> = parameters
            .flat_map(|parameter| parameter["Capabilities"].as_array().unwrap())
            .map(|capability| {
                let family = &capability["MultiProtocolExtensions"]["address_type"];
                match (capability.as_str(), family.as_str()) {
                    (Some("RouteRefresh"), _) => json!(2),
                    (Some("CiscoRouteRefresh"), _) => json!(128),
                    (_, Some("Ipv4Unicast")) => json!("ipv4 unicast"),
                    (_, Some("Ipv6Unicast")) => json!("ipv6 unicast"),
                    _ => capability["FourOctetAs"]["asn4"].clone(),
                }
            })
            .collect();
        return json!([
            open["version"],
            open["my_as"],
            open["hold_time"],
            open["bgp_id"],
            capabilities
        ]);
    }
    let update = &line["Update"];
    let routes = |list: &Value| -> Vec<Value> {
        let list = list.as_array().unwrap().iter();
        list.map(|entry| json!({ "nlri": entry["network"] }))
            .collect()
    };
    let mut result = json!({});
    let attributes = update["path_attributes"].as_array().unwrap();
    let mut hop = Value::Null;
    for attribute in attributes {
        let (name, value) = attribute["value"]
            .as_object()
            .unwrap()
            .iter()
            .next()
            .unwrap();
        let to = &mut result;
        match name.as_str() {
            "Origin" => {
                to["attribute"]["origin"] = value.as_str().unwrap().to_lowercase().into();
            }
            "MultiExitDiscriminator" => to["attribute"]["med"] = value["metric"].clone(),
            "LocalPreference" => {
                to["attribute"]["local-preference"] = value["metric"].clone();
            }
            "AsPath" => assert_eq!(value["As4PathSegments"], json!([]), "all are of one AS"),
            "NextHop" => hop = value["next_hop"].clone(),
            "MpReach" => {
                let reach = &value["Ipv6Unicast"];
                let hop = reach["next_hop_global"].as_str().unwrap();
                let mut routes = routes(&reach["nlri"]);
                if let Some(local) = reach["next_hop_local"].as_str() {
                    for route in &mut routes {
                        route["link-local"] = local.into();
                    }
                }
                to["announce"]["ipv6 unicast"][hop] = routes.into();
            }
            "MpUnreach" => {
                let gone = routes(&value["Ipv6Unicast"]["nlri"]);
                if gone.is_empty() && attributes.len() == 1 {
                    return json!("ipv6");
                }
                to["withdraw"]["ipv6 unicast"] = gone.into();
            }
            other => panic!("{other} is not in this capture"),
        }
    }
    let announced = routes(&update["nlri"]);
    let withdrawn = routes(&update["withdrawn_routes"]);
    if attributes.is_empty() && announced.is_empty() && withdrawn.is_empty() {
        return json!("ipv4");
    }
    if !announced.is_empty() {
        result["announce"]["ipv4 unicast"][hop.as_str().unwrap()] = announced.into();
    }
    if !withdrawn.is_empty() {
        result["withdraw"]["ipv4 unicast"] = withdrawn.into();
    }
    result
}

/// Every message of the recordings, its type and peer, and each UPDATE's prefixes, as NetGauze reads
/// them.
#[test]
fn bmp_recordings_are_decoded_whole() {
    for name in [
        "bmp/peers-with-different-caps",
        "bmp/stateless-with-add-path",
    ] {
        let Some(capture) = shared(&format!("{name}.pcap")) else {
            return;
        };
        let theirs = std::fs::read_to_string(capture.with_extension("json")).unwrap();
        let theirs = theirs
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        let file = capture.to_str().unwrap();
        let done = netwatch(&["bgp", "decode", "--format", "bmp", "--json", file]);
        let lines = lines(&done.stdout);
        let ours = lines.iter().filter(|line| line["bmp"].is_string()).count();
        assert!(ours > 0 && ours == theirs, "{name}: {ours}, {theirs}");
        let monitoring = lines
            .iter()
            .filter(|line| line["bmp"] == "route monitoring");
        let read = lines.iter().filter(|line| line["type"] == "update");
        assert_eq!(monitoring.count(), read.clone().count(), "{name}");
        for update in read {
            assert_ne!(update["disposition"], "session-reset", "{name}: {update}");
        }
    }
    // A stream that is cut off, and what was before it.
    let initiation = [3, 0, 0, 0, 11, 4, 0, 2, 0, 1, b'r'];
    let cut = [&initiation[..], &[3, 0, 0, 0, 9, 4]].concat();
    let done = netwatch(&["bgp", "decode", "--format", "bmp", "--hex", &hex(&cut)]);
    assert!(done.stdout.contains("initiation") && done.stdout.contains("sysName r"));
    assert!(done.stderr.contains("at 11"), "{}", done.stderr);
}

/// Where each message is, and what it says, also where an UPDATE is not the last of its parts.
#[test]
fn bmp_messages_and_their_places() {
    let bmp = |version: u8, kind: u8, body: &[&[u8]]| {
        let body = body.concat();
        let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
        [&[version][..], &length, &[kind], &body].concat()
    };
    let mut peer = [0; 42];
    peer[22..26].copy_from_slice(&[192, 0, 2, 1]);
    let up = bmp(3, 3, &[&peer, &[0; 20], &open(4, 90, 1), &open(4, 90, 2)]);
    let route = update(TEN, &[], &[]);
    let length = u16::try_from(route.len()).unwrap().to_be_bytes();
    let tlvs = [
        &[0, 4][..],
        &length,
        &[0, 0],
        &route,
        &[0, 3, 0, 1, 0, 0, b't'],
    ]
    .concat();
    let monitoring = bmp(4, 0, &[&peer, &tlvs]);
    let figure = [0, 9, 0, 11, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 7];
    let statistics = bmp(3, 1, &[&peer, &[0, 0, 0, 1], &figure]);
    let termination = bmp(3, 5, &[&[0, 1, 0, 2, 0, 2]]);
    let at = up.len();
    let stream = hex(&[up, monitoring, statistics, termination].concat());
    let arguments = ["bgp", "decode", "--format", "bmp", "--hex", &stream];
    let text = netwatch(&arguments).ok();
    let said = format!(
        "#1 at {}: UPDATE, {} octets: accepted",
        at + 6 + 42 + 6,
        route.len()
    );
    for line in [
        &said,
        "    9: routes in Adj-RIB-In of a family, ipv6 unicast: 7",
        "    reason 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    let found = lines(&netwatch(&[&arguments[..], &["--json"]].concat()).ok());
    assert_eq!(found[2]["offset"], at + 54);
    assert_eq!(found[3]["statistics"][0]["family"], "ipv6 unicast");
    assert_eq!(found[4]["reason"], 2);
}
