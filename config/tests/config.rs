//! Reading configurations: what is accepted, and what exactly is said about the rest.

use std::time::Duration;

use config::{Config, ConfigError, Mode, RoutingKey};

const SHIPPED: &str = include_str!("../netwatch.toml");
const KEY: &str = "0123456789abcdef0123456789ABCDEF";

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "t.toml") {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(error) => error.problems().iter().map(ToString::to_string).collect(),
    }
}

#[track_caller]
fn only(text: &str, place: &str, says: &str) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with(place), "{found:#?}");
    assert!(found[0].contains(says), "{found:#?}");
}

/// The shipped file with every `#key` and `#[table]` uncommented.
fn uncommented() -> String {
    SHIPPED
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => l,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn nothing_and_the_shipped_file_are_the_default() {
    assert_eq!(Config::parse("", "t").unwrap(), Config::default());
    assert_eq!(Config::parse(SHIPPED, "t").unwrap(), Config::default());
}

#[test]
fn every_key_of_the_shipped_file_is_valid() {
    let config = Config::parse(&uncommented(), "netwatch.toml").unwrap();
    assert_eq!(config.tcp.peers.len(), 2);
    assert_eq!(config.watch.processes, ["gaiad"]);
    assert_eq!(config.watch.executables.len(), 1);
    assert_eq!(config.watch.units, ["gaiad.service"]);
    assert_eq!(config.watch.cgroups.len(), 1);
    assert!(config.watch.consensus_ports.contains(&26656));
    assert!(config.watch.has_processes());
    assert_eq!(config.watch.wait, Duration::from_millis(50));
    assert!(config.block.enabled);
    assert_eq!(config.block.devices, ["nvme0n1"]);
    assert_eq!(config.block.slow, Duration::from_millis(100));
    assert_eq!(config.egress.len(), 2);
    assert_eq!(
        config.egress[0].gateway_for("203.0.113.1".parse().unwrap()),
        Some("192.0.2.1".parse().unwrap())
    );
    assert_eq!(config.probe.flow_sources.len(), 2);
    assert_eq!(config.probe.anchors.len(), 4);
    assert_eq!(config.probe.gateway_interval, Duration::from_millis(20));
    let bgp = config.bgp.unwrap();
    assert_eq!(
        (bgp.local_as, bgp.neighbors.len(), bgp.listen.len()),
        (64496, 2, 2)
    );
    let guarded = &bgp.neighbors[1];
    assert!(!guarded.passive && bgp.neighbors[0].passive);
    assert_eq!(guarded.interface.as_deref(), Some("wan1"));
    assert_eq!(guarded.peer.role, Some(config::BgpRole::Customer));
    assert_eq!(guarded.peer.ttl_security, Some(1));
    assert!(guarded.peer.add_path.ipv4 && guarded.peer.add_path.ipv6);
    assert_eq!((bgp.dynamic.len(), bgp.dynamic[0].limit), (1, 100));
    assert_eq!(config.failover.mode, Mode::Shadow);
    assert_eq!(config.failover.prefixes.len(), 2);
    assert_eq!(config.failover.maintenance.len(), 1);
    assert!(matches!(
        config.pager.unwrap().routing_key,
        RoutingKey::File(_)
    ));
    assert_eq!(config.metrics.unwrap().listen.port(), 9464);
    assert_eq!(config.host.name.as_deref(), Some("val-1"));
    assert_eq!(config.recorder, config::Recorder::default());
}

#[test]
fn the_recorder_needs_room_for_one_recording() {
    let config = Config::parse("[recorder]\nbefore = \"2m\"\ntotal_mib = 64\n", "t").unwrap();
    assert_eq!(config.recorder.before, Duration::from_secs(120));
    assert_eq!(
        (config.recorder.total_mib, config.recorder.recording_mib),
        (64, 32)
    );
    only(
        "[recorder]\ntotal_mib = 16\n",
        "1:1: recorder: ",
        "less than recording_mib",
    );
    only(
        "[recorder]\nmemory_mib = 0\n",
        "2:14: recorder.memory_mib: ",
        "1 to 1024",
    );
}

/// The shipped file names every key that these complaints about unknown ones list, and the
/// documentation too.
fn shipped_and_documented(problems: &[String]) {
    for problem in problems {
        let (_, known) = problem.split_once("known keys here: ").unwrap();
        for key in known.split(", ") {
            assert!(SHIPPED.contains(key), "netwatch.toml lacks {key}");
            assert!(
                include_str!("../../docs/configuration.md").contains(&format!("`{key}`")),
                "docs/configuration.md lacks {key}"
            );
        }
    }
}

#[test]
fn the_shipped_file_and_the_documentation_are_complete() {
    let nonsense = format!(
        "zzz = 1\n[host]\nzzz = 1\n[tcp]\nzzz = 1\n[watch]\nzzz = 1\n[block]\nzzz = 1\n[[egress]]\nname = 'a'\ninterface = 'a'\nzzz = 1\n[probe]\nzzz = 1\nanchors = [{{ address = '192.0.2.1', asn = 1, zzz = 1 }}]\n[bgp]\nlocal_as = 1\nrouter_id = '192.0.2.1'\nzzz = 1\n[bgp.rpki]\nfile = 'vrps.json'\nzzz = 1\n[[bgp.neighbor]]\naddress = '192.0.2.1'\nasn = 1\negress = 'a'\nzzz = 1\n[[bgp.dynamic]]\nprefix = '192.0.2.0/24'\nasn = [1]\negress = 'a'\nzzz = 1\n[failover]\nzzz = 1\n[[failover.maintenance]]\nstart = 2026-03-01T22:00:00Z\nend = 2026-03-01T23:00:00Z\nzzz = 1\n[pager]\nrouting_key = '{KEY}'\nzzz = 1\n[metrics]\nlisten = '127.0.0.1:1'\nzzz = 1\n[recorder]\nzzz = 1\n"
    );
    let found = problems(&nonsense);
    assert_eq!(found.len(), 17, "{found:#?}");
    shipped_and_documented(&found);
}

#[test]
fn broken_toml_is_named_by_line_and_column() {
    let found = problems("[host]\nname = \"a\nlog = \"info\"\n[probe\n");
    assert!(!found.is_empty());
    assert!(found[0].starts_with("2:"), "{found:#?}");
    let error = Config::parse("a = = 1", "n.toml").unwrap_err().to_string();
    assert!(error.starts_with("n.toml:1:"), "{error}");
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    only(
        "[probe]\ngateway_intervall = \"20ms\"\n",
        "2:1: probe.gateway_intervall: ",
        "did you mean `gateway_interval`?",
    );
    only(
        "[faliover]\n",
        "1:2: faliover: ",
        "did you mean `failover`?",
    );
}

#[test]
fn all_problems_are_reported_in_one_go_and_in_order() {
    let found = problems(
        "[host]\nlog = 3\n[tcp]\nports = [0, 22, 70000]\nebpf = \"yes\"\n[failover]\nlease = \"1s\"\nprotocol = 12\nprefixes = [\"10.0.0.1/8\"]\n",
    );
    let places: Vec<&str> = found
        .iter()
        .map(|p| p.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "host.log",
            "tcp.ports[0]",
            "tcp.ports[2]",
            "tcp.ebpf",
            "failover.lease",
            "failover.protocol",
            "failover.prefixes[0]"
        ]
    );
    assert!(found[6].contains("write 10.0.0.0/8"), "{found:#?}");
}

#[test]
fn egresses_are_told_apart() {
    let two = |second: &str| {
        format!(
            "[[egress]]\nname = \"a\"\ninterface = \"w0\"\ngateways = [\"192.0.2.1\"]\n[[egress]]\n{second}\n"
        )
    };
    only(
        &two("name = \"a\"\ninterface = \"w1\""),
        "6:8: egress[1].name",
        "names are unique",
    );
    only(
        &two("name = \"b\"\ninterface = \"w0\""),
        "7:13: egress[1].interface",
        "egress `a` has this interface",
    );
    only(
        &two("name = \"b\"\ninterface = \"w1\"\ngateways = [\"192.0.2.1\"]"),
        "8:13: egress[1].gateways[0]",
        "another egress",
    );
    only(
        &two("name = \"b\"\ninterface = \"w1\"\ngateways = [\"192.0.2.2\", \"192.0.2.3\"]"),
        "8:26: egress[1].gateways[1]",
        "second IPv4 gateway",
    );
    only(
        &two("name = \"b\"\ninterface = \"sixteen-bytes-xx\""),
        "7:13:",
        "1 to 15 bytes",
    );
    only(&two("name = \"b\""), "5:1: egress[1].interface", "missing");
    only(
        &two("name = \"b\"\ninterface = \"w1\"\ngateways = [\"::ffff:192.0.2.9\"]"),
        "8:13:",
        "write the IPv4 address",
    );
    assert!(
        Config::parse(
            &two("name = \"b\"\ninterface = \"w1\"\ngateways = [\"192.0.2.2\", \"fe80::1\"]"),
            "t"
        )
        .is_ok()
    );
}

#[test]
fn what_is_watched_is_named_as_the_kernel_and_systemd_name_it() {
    for (line, place, says) in [
        (
            "processes = ['gaiad', 'tendermint-light-node']",
            "2:23: watch.processes[1]: ",
            "probably \"tendermint-ligh\"",
        ),
        (
            "processes = ['/usr/bin/gaiad']",
            "2:14: watch.processes[0]: ",
            "watch.executables",
        ),
        (
            "processes = ['a', 'b', 'a']",
            "2:24: watch.processes[2]: ",
            "listed twice",
        ),
        (
            "processes = ['']",
            "2:14: watch.processes[0]: ",
            "must not be empty",
        ),
        (
            "processes = 'gaiad'",
            "2:13: watch.processes: ",
            "expected a list of process names",
        ),
        (
            "executables = ['bin/gaiad']",
            "2:16: watch.executables[0]: ",
            "absolute path",
        ),
        (
            "executables = ['/bin/../gaiad']",
            "2:16: watch.executables[0]: ",
            "without `.`",
        ),
        (
            "executables = ['/bin/gaiad/']",
            "2:16: watch.executables[0]: ",
            "a final `/`",
        ),
        (
            "units = ['gaiad']",
            "2:10: watch.units[0]: ",
            "such as \"gaiad.service\"",
        ),
        (
            "units = ['gaiad.timer']",
            "2:10: watch.units[0]: ",
            "such as \"gaiad.service\"",
        ),
        (
            "units = ['.service']",
            "2:10: watch.units[0]: ",
            "whole name",
        ),
        (
            "units = ['/system.slice/a.service']",
            "2:10: watch.units[0]: ",
            "watch.cgroups",
        ),
        (
            "cgroups = ['/sys/fs/cgroup/x']",
            "2:12: watch.cgroups[0]: ",
            "below /sys/fs/cgroup",
        ),
        (
            "cgroups = ['/']",
            "2:12: watch.cgroups[0]: ",
            "every process",
        ),
        (
            "consensus_ports = [0]",
            "2:20: watch.consensus_ports[0]: ",
            "1 to 65535",
        ),
        (
            "consensus_ports = [7, 7]",
            "2:23: watch.consensus_ports[1]: ",
            "listed twice",
        ),
        (
            "consensus_ports = [1, 2, 3, 4, 5, 6, 7, 8, 9]",
            "2:44: watch.consensus_ports[8]: ",
            "at most 8",
        ),
        ("wait = '0s'", "2:8: watch.wait: ", "1ms to 1m"),
        (
            "proceses = []",
            "2:1: watch.proceses: ",
            "did you mean `processes`?",
        ),
    ] {
        only(&format!("[watch]\n{line}\n"), place, says);
    }
    for (line, place, says) in [
        (
            "devices = ['/dev/sda']",
            "2:12: block.devices[0]: ",
            "lsblk -d",
        ),
        (
            "devices = ['sda', 'sda']",
            "2:19: block.devices[1]: ",
            "listed twice",
        ),
        ("slow = 100", "2:8: block.slow: ", "expected a duration"),
        ("enabled = 1", "2:11: block.enabled: ", "true or false"),
    ] {
        only(&format!("[block]\n{line}\n"), place, says);
    }
    let many: Vec<String> = (0..65).map(|n| format!("'p{n}'")).collect();
    let many = format!("[watch]\nprocesses = [{}]\n", many.join(", "));
    only(&many, "2:", "at most 64");
    only(
        "[tcp]\npeers = ['10.1.0.0/16']\nignore = ['10.0.0.0/8']\n",
        "2:10: tcp.peers[0]: ",
        "wholly inside tcp.ignore (10.0.0.0/8)",
    );
    only(
        "[tcp]\npeers = ['10.0.0.1/8']\n",
        "2:10: tcp.peers[0]: ",
        "write 10.0.0.0/8",
    );
    only(
        "[tcp]\nports = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n",
        "2:34: tcp.ports[8]: ",
        "at most 8",
    );
    let good = "[watch]\nprocesses = ['fifteen-bytes-ok']\n".replace("-ok", "-k");
    assert!(Config::parse(&good, "t").unwrap().warnings().is_empty());
    let off = format!("[tcp]\nebpf = false\n{good}");
    let warned = Config::parse(&off, "t").unwrap().warnings();
    assert!(
        warned[0].starts_with("watch: tcp.ebpf is false"),
        "{warned:?}"
    );
    let split = "[tcp]\nports = [1]\n[watch]\nconsensus_ports = [2]\n";
    let warned = Config::parse(split, "t").unwrap().warnings();
    assert!(
        warned[0].starts_with("watch.consensus_ports: "),
        "{warned:?}"
    );
}

#[test]
fn bgp_refers_to_what_exists() {
    let base = "[[egress]]\nname = \"a\"\ninterface = \"w0\"\n[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.9\"\n";
    let neighbor = |asn: &str, egress: &str| {
        format!(
            "{base}[[bgp.neighbor]]\naddress = \"192.0.2.1\"\nasn = {asn}\negress = \"{egress}\"\n"
        )
    };
    assert!(Config::parse(&neighbor("1", "a"), "t").is_ok());
    only(
        &neighbor("1", "c"),
        "10:10: bgp.neighbor[0].egress",
        "there are: a",
    );
    only(
        &neighbor("0", "a"),
        "9:7: bgp.neighbor[0].asn",
        "1 to 4294967294",
    );
    only(
        &(neighbor("1", "a")
            + "[[bgp.neighbor]]\naddress = \"192.0.2.1\"\nasn = 2\negress = \"a\"\n"),
        "12:11:",
        "another neighbor",
    );
    let with = |lines: &str| neighbor("1", "a") + lines;
    for (lines, place, text) in [
        (
            "role = \"friend\"\n",
            "11:8: bgp.neighbor[0].role",
            "\"customer\"",
        ),
        ("role_strict = true\n", "11:15:", "needs `role`"),
        ("port = 1179\n", "11:8:", "passive = false"),
        ("ttl_security = 255\n", "11:16:", "1 to 254"),
        ("add_path = [\"vpnv4\"]\n", "11:13:", "neither"),
        ("interface = \"w0\"\n", "11:13:", "link-local"),
        ("password_file = \"key\"\n", "11:17:", "absolute path"),
        (
            "[[bgp.dynamic]]\nprefix = \"192.0.2.1/24\"\nasn = [1]\negress = \"a\"\n",
            "12:10: bgp.dynamic[0].prefix",
            "host bits",
        ),
        (
            "[[bgp.dynamic]]\nprefix = \"192.0.2.0/24\"\nasn = []\negress = \"a\"\n",
            "13:7: bgp.dynamic[0].asn",
            "at least one",
        ),
    ] {
        only(&with(lines), place, text);
    }
    only(
        "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.9\"\nhold_time = \"2s\"\n",
        "4:13: bgp.hold_time",
        "at least \"3s\"",
    );
    only(
        "[bgp]\nlocal_as = 1\nrouter_id = \"0.0.0.0\"\n",
        "3:13: bgp.router_id",
        "RFC 6286",
    );
    only(
        "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.9\"\nlisten = [\"0.0.0.0\"]\n",
        "4:11: bgp.listen[0]",
        "with a port",
    );
    only(
        "[bgp]\nlocal_as = 1\nrouter_id = \"192.0.2.9\"\nlisten = [\"127.0.0.1:179\"]\n[metrics]\nlisten = \"127.0.0.1:179\"\n",
        "6:10: metrics.listen",
        "choose another",
    );
}

#[test]
fn acting_needs_a_backup_and_flow_sources() {
    let found = problems("[failover]\nmode = \"act\"\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found.iter().all(|p| p.starts_with("2:8: failover.mode")),
        "{found:#?}"
    );
    let good = "[[egress]]\nname = \"a\"\ninterface = \"w0\"\n[[egress]]\nname = \"b\"\ninterface = \"w1\"\n[probe]\nflow_sources = [\"198.51.100.1\"]\n[failover]\nmode = \"act\"\n";
    let config = Config::parse(good, "t").unwrap();
    assert_eq!(config.failover.mode, Mode::Act);
    let warnings = config.warnings().join("\n");
    assert!(warnings.contains("failover.prefixes"), "{warnings}");
    assert!(warnings.contains("0 of 2 have a gateway"), "{warnings}");
    let unproven = good.replace("[probe]\n", "[probe]\nenabled = false\n");
    let warnings = Config::parse(&unproven, "t").unwrap().warnings().join("\n");
    assert!(warnings.contains("no backup is ever proven"), "{warnings}");
}

#[test]
fn maintenance_has_a_start_and_an_end_with_their_zones() {
    let window = |start: &str, end: &str| {
        format!("[[failover.maintenance]]\nstart = {start}\nend = {end}\n")
    };
    let good = window("2026-03-01T22:00:00Z", "'2026-03-01 23:00:00.5+00:30'")
        + "reason = \"router\"\n"
        + &window("2026-03-01T22:00:00-02:00", "2026-03-02T00:00:01Z");
    let windows = Config::parse(&good, "t").unwrap().failover.maintenance;
    let told: Vec<_> = windows
        .iter()
        .map(|w| (w.start.to_string(), w.end.to_string(), w.reason.as_deref()))
        .collect();
    let expected = [
        (
            "2026-03-01T22:00:00Z",
            "2026-03-01T22:30:00.5Z",
            Some("router"),
        ),
        ("2026-03-02T00:00:00Z", "2026-03-02T00:00:01Z", None),
    ]
    .map(|(start, end, reason)| (start.to_owned(), end.to_owned(), reason));
    assert_eq!(told, expected);

    let end = "2026-03-01T23:00:00Z";
    for (start, says) in [
        ("2026-03-01T22:00:00", "with its zone"),
        ("2026-03-01", "with its zone"),
        ("22:00:00", "with its zone"),
        ("'2026-03-01T22:00:00'", "with its zone"),
        ("'2026-03-01T22:00:00[Europe/Berlin]'", "with its zone"),
        ("'tomorrow'", "with its zone"),
        ("1772402400", "found a value of type integer"),
    ] {
        only(
            &window(start, end),
            "2:9: failover.maintenance[0].start: ",
            says,
        );
    }
    for start in [end, "2026-03-02T00:00:00+01:00", "2026-03-01T23:00:01Z"] {
        only(
            &window(start, end),
            "3:7: failover.maintenance[0].end: ",
            "is not after the start",
        );
    }
    only(
        "[[failover.maintenance]]\nstart = 2026-03-01T22:00:00Z\n",
        "1:1: failover.maintenance[0].end: ",
        "missing",
    );
    only(
        &(window("2026-03-01T22:00:00Z", end) + "reson = 'x'\n"),
        "4:1: failover.maintenance[0].reson: ",
        "did you mean `reason`?",
    );
    only(
        "[failover]\nmaintenance = true\n",
        "2:15: failover.maintenance: ",
        "[[failover.maintenance]]",
    );
}

#[test]
fn what_is_protected_cannot_be_allowed() {
    let text = |allowed: &str| {
        format!("[failover]\nprefixes = [\"{allowed}\"]\nprotected = [\"192.0.2.0/24\"]\n")
    };
    only(
        &text("192.0.2.128/25"),
        "2:13: failover.prefixes[0]",
        "wholly inside failover.protected (192.0.2.0/24)",
    );
    assert!(Config::parse(&text("192.0.0.0/16"), "t").is_ok());
    assert!(Config::parse(&text("0.0.0.0/0"), "t").is_ok());
}

#[test]
fn probes_have_lower_bounds_and_real_targets() {
    only(
        "[probe]\ngateway_interval = \"1ms\"\n",
        "2:20:",
        "10ms to 1m",
    );
    only(
        "[probe]\nanchor_interval = 50\n",
        "2:19:",
        "expected a duration",
    );
    only(
        "[probe]\nflow_sources = [\"127.0.0.1\"]\n",
        "2:17:",
        "loopback",
    );
    only(
        "[probe]\nanchors = [{ address = \"192.0.2.1\" }]\n",
        "2:12: probe.anchors[0].asn",
        "missing",
    );
    only(
        "[probe]\nanchors = [{ address = \"224.0.0.1\", asn = 1 }]\n",
        "2:24: probe.anchors[0].address",
        "one host",
    );
}

#[test]
fn the_routing_key_is_checked_and_never_shown() {
    let text = format!("[pager]\nrouting_key = \"{KEY}\"\n");
    let config = Config::parse(&text, "t").unwrap();
    assert!(!format!("{config:?}").contains(KEY));
    let pager = config.pager.unwrap();
    assert_eq!(pager.routing_key.resolve().unwrap().expose(), KEY);
    assert_eq!(
        pager.routing_key.resolve().unwrap().to_string(),
        "[redacted]"
    );

    only(
        "[pager]\n",
        "1:1: pager",
        "needs routing_key or routing_key_file",
    );
    only(
        &format!("{text}routing_key_file = \"/k\"\n"),
        "1:1: pager",
        "exclude each other",
    );
    for wrong in [
        "sekret",
        "sekret-9012345678901234567890123",
        "sekret\nbroken",
    ] {
        let error =
            Config::parse(&format!("[pager]\nrouting_key = \"{wrong}\"\n"), "t").unwrap_err();
        assert!(!error.to_string().contains("sekret"), "{error}");
        assert!(!format!("{error:?}").contains("sekret"), "{error:?}");
    }
    only(
        &format!("{text}url = \"ftp://x\"\n"),
        "3:7: pager.url",
        "is not a URL",
    );
    only(
        &format!("{text}provider = \"opsgenie\"\n"),
        "3:12: pager.provider",
        "pagerduty",
    );
}

#[test]
fn the_routing_key_can_live_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    let key = RoutingKey::File(path.clone());
    assert_eq!(key.resolve().unwrap().expose(), KEY);
    std::fs::write(&path, "sekret").unwrap();
    let error = key.resolve().unwrap_err().to_string();
    assert!(
        error.contains("32 characters") && !error.contains("sekret"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(
        key.resolve()
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
}

#[test]
fn files_are_loaded_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("n.toml");
    let missing = Config::load(&path).unwrap_err();
    assert!(matches!(missing, ConfigError::Read { .. }));
    assert!(missing.to_string().contains("n.toml") && missing.to_string().contains("--config"));
    std::fs::write(&path, "[host]\nname = 1\n").unwrap();
    let invalid = Config::load(&path).unwrap_err().to_string();
    assert!(
        invalid.contains("n.toml:2:8: host.name: expected a string"),
        "{invalid}"
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(
        Config::load(&path).unwrap_err(),
        ConfigError::Read { .. }
    ));
    std::fs::write(&path, uncommented()).unwrap();
    assert!(Config::load(&path).is_ok());
}

#[test]
fn the_kill_switch_follows_the_runtime_directory() {
    let config = Config::parse("[host]\nruntime_dir = \"/tmp/nw\"\n", "t").unwrap();
    assert_eq!(
        config.failover.kill_switch.to_str(),
        Some("/tmp/nw/failover.off")
    );
    only(
        "[host]\nstate_dir = \"here\"\n",
        "2:13: host.state_dir",
        "absolute",
    );
}

#[test]
fn monitored_routers_and_ris_live() {
    const HEAD: &str = "[[egress]]\nname = \"a\"\ninterface = \"eth0\"\ngateways = [\"192.0.2.1\"]\n\
        [bgp]\nlocal_as = 64496\nrouter_id = \"198.51.100.10\"\n";
    let of = |rest: &str| format!("{HEAD}{rest}");
    let config = Config::parse(&uncommented(), "netwatch.toml").unwrap();
    let bgp = config.bgp.as_ref().unwrap();
    let bmp = bgp.bmp.as_ref().unwrap();
    assert_eq!((bmp.listen.len(), bmp.routers.len()), (2, 2));
    assert_eq!(bmp.routers[1].connect, Some(11019));
    assert_eq!(bmp.routers[1].peers[0].egress, "b");
    assert_eq!(bmp.routers[0].views.len(), 3);
    assert_eq!(bgp.ris.as_ref().unwrap().prefixes.len(), 1);

    let router =
        "[bgp.bmp]\nlisten = [\"0.0.0.0:11019\"]\n[[bgp.bmp.router]]\naddress = \"192.0.2.9\"\n";
    let sound = of(&format!("{router}egress = \"a\"\n"));
    let parsed = Config::parse(&sound, "t").unwrap();
    let views = &parsed.bgp.as_ref().unwrap().bmp.as_ref().unwrap().routers[0].views;
    assert_eq!(views.len(), 3, "the default");
    assert!(
        !parsed
            .warnings()
            .iter()
            .any(|warning| warning.contains("no router can connect"))
    );

    only(
        &of(router),
        "",
        "the name of the [[egress]] that its neighbors' routes stand for",
    );
    only(
        &of(&format!("{router}egress = \"x\"\n")),
        "",
        "there is no egress `x`; there are: a",
    );
    let views = format!("{router}egress = \"a\"\nviews = [\"in\"]\n");
    only(
        &of(&views),
        "",
        "is no view; there are: in-pre, in-post, out-pre, out-post, loc",
    );
    let deaf = "[bgp.bmp]\nlisten = [\"[::]:11019\"]\n[[bgp.bmp.router]]\naddress = \"192.0.2.9\"\negress = \"a\"\n";
    only(&of(deaf), "", "bgp.bmp.listen has no address of its family");
    only(&of("[bgp.bmp]\n"), "", "missing: a [[bgp.bmp.router]]");
    let twice = format!(
        "{router}egress = \"a\"\n[[bgp.bmp.router]]\naddress = \"192.0.2.9\"\negress = \"a\"\n"
    );
    only(&of(&twice), "", "another router has this address");
    only(
        &of("[bgp.ris]\negress = \"a\"\nurl = \"http://x\"\n"),
        "",
        "must begin with wss://",
    );

    // The shipped file and the documentation have every key.
    let unknown = format!(
        "{router}egress = \"a\"\nzzz = 1\n[[bgp.bmp.router.peer]]\naddress = \"192.0.2.8\"\negress = \"a\"\nzzz = 1\n[bgp.ris]\negress = \"a\"\nzzz = 1\n"
    );
    let found = problems(&of(&unknown));
    assert_eq!(found.len(), 3, "{found:#?}");
    shipped_and_documented(&found);
}

#[test]
fn how_often_routes_are_changed_can_be_set() {
    let config = Config::parse(
        "[failover]\nactions_per_hour = 10000\nclass_interval = \"0s\"\nhold_down = \"100ms\"\nhold_down_max = \"1s\"\nnudge = true\n",
        "t.toml",
    )
    .unwrap();
    let failover = config.failover;
    assert_eq!(failover.actions_per_hour, 10_000);
    assert_eq!(failover.class_interval, Duration::ZERO);
    assert_eq!(failover.hold_down, Duration::from_millis(100));
    assert_eq!(failover.hold_down_max, Duration::from_secs(1));
    assert!(failover.nudge);
    only(
        "[failover]\nactions_per_hour = 0\n",
        "2:",
        "actions_per_hour",
    );
    only(
        "[failover]\nclass_interval = \"25h\"\n",
        "2:",
        "class_interval",
    );
}
