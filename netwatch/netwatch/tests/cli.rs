//! The command line without a daemon: help, configurations, the journal, errors.

mod common;

use common::{netwatch, unprivileged};

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("netwatch-test-")
        .tempdir()
        .expect("directory")
}

#[test]
fn every_command_has_help_with_examples() {
    let general = netwatch(&["--help"]).ok();
    for command in [
        &["run"][..],
        &["doctor"],
        &["status"],
        &["top"],
        &["trace"],
        &["report"],
        &["failover"],
        &["failover", "status"],
        &["failover", "rollback"],
        &["page"],
        &["bgp"],
        &["bgp", "neighbors"],
        &["bgp", "rib"],
        &["bgp", "refresh"],
        &["bgp", "decode"],
        &["bgp", "replay"],
        &["replay"],
        &["check-config"],
    ] {
        let help = netwatch(&[command, &["--help"]].concat()).ok();
        let example = format!("  netwatch {}", command.join(" "));
        assert!(help.contains("Example"), "{command:?}: {help}");
        assert!(help.contains(&example), "{command:?}: {help}");
        assert!(
            general.contains(&format!("  {} ", command[0])),
            "{command:?}"
        );
        // Lines of examples must survive a terminal of 80 columns.
        for line in help.lines().skip_while(|line| !line.starts_with("Example")) {
            assert!(line.len() <= 80, "{command:?}: {line}");
        }
    }
    assert!(general.contains("Examples:"), "{general}");
    assert!(!general.contains("watchdog"), "{general}");
    let version = netwatch(&["--version"]).ok();
    assert_eq!(
        version.trim(),
        concat!("netwatch ", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(netwatch(&[]).code, Some(2));
    assert_eq!(netwatch(&["stauts"]).code, Some(2));
}

#[test]
fn a_valid_configuration_is_called_so() {
    let directory = directory();
    let text = include_str!("../../../config/netwatch.toml");
    let shipped = file(&directory, "shipped.toml", text);
    let said = netwatch(&["check-config", &shipped]).ok();
    assert_eq!(said, format!("{shipped}: valid\n"));

    let risky = "[metrics]\nlisten = \"0.0.0.0:9464\"\n";
    let risky = file(&directory, "risky.toml", risky);
    let said = netwatch(&["check-config", &risky]).ok();
    assert!(said.starts_with("warning: metrics.listen: "), "{said}");
    assert!(said.ends_with(": valid\n"), "{said}");
}

/// `check-config` and `run` say the same, with file, line and key, and all of it at once.
#[test]
fn a_broken_configuration_is_named_by_file_line_and_key() {
    let directory = directory();
    let name = |n: usize| directory.path().join(format!("{n}.toml"));
    let cases: [(&str, &[&str]); 6] = [
        ("[host]\nname = \"a\n", &[":2:"]),
        ("[host\nname = \"a\"\n", &[":1:"]),
        (
            "[probe]\ngateway_intervall = \"20ms\"\n",
            &[
                ":2:1: probe.gateway_intervall: unknown key",
                "gateway_interval`",
            ],
        ),
        ("\n[tcp]\nebpf = \"yes\"\n", &[":3:8: tcp.ebpf: expected"]),
        (
            "[failover]\nlease = 30\n",
            &[":2:9: failover.lease: expected a duration"],
        ),
        (
            "[hosst]\n[probe]\nanchor_interval = 3\n[metrics]\nlisten = \"nowhere\"\n",
            &[
                ":1:2: hosst: unknown key; did you mean `host`?",
                ":3:19: probe.anchor_interval: ",
                ":5:10: metrics.listen: ",
            ],
        ),
    ];
    for (n, (text, says)) in cases.into_iter().enumerate() {
        let path = file(&directory, &format!("{n}.toml"), text);
        let says: Vec<String> = says
            .iter()
            .map(|said| match said.starts_with(':') {
                true => format!("{}{said}", name(n).display()),
                false => (*said).to_owned(),
            })
            .collect();
        let says: Vec<&str> = says.iter().map(String::as_str).collect();
        let checked = netwatch(&["check-config", &path]).fails(&says);
        let run = netwatch(&["run", "--config", &path]).fails(&says);
        assert_eq!(checked, run, "the same message");
        assert_eq!(netwatch(&["doctor", "--config", &path]).fails(&says), run);
        assert_eq!(netwatch(&["status", "--config", &path]).fails(&says), run);
        assert_eq!(netwatch(&["report", "--config", &path]).fails(&says), run);
    }
    let none = name(99);
    let none = none.to_str().expect("text");
    for arguments in [
        ["check-config", none].as_slice(),
        &["run", "--config", none],
    ] {
        netwatch(arguments).fails(&[none, "cannot read the configuration", "--config"]);
    }
}

#[test]
fn without_a_daemon_the_error_names_the_socket_and_the_remedy() {
    let directory = directory();
    let socket = directory.path().join("netwatch.sock");
    let socket = socket.to_str().expect("text");
    let commands: [&[&str]; 9] = [
        &["top"],
        &["top", "--once"],
        &["status"],
        &["status", "--json"],
        &["failover", "status"],
        &["failover", "rollback"],
        &["page", "--test"],
        &["bgp", "neighbors"],
        &["bgp", "rib", "192.0.2.1"],
    ];
    for command in commands {
        let done = netwatch(&[command, &["--socket", socket]].concat());
        assert_eq!(done.stdout, "", "{command:?}");
        done.fails(&["error: ", socket, "is it running?", "netwatch run"]);
    }
    // The configured directory says where the socket is.
    let config = format!("[host]\nruntime_dir = \"{}\"\n", directory.path().display());
    let config = file(&directory, "c.toml", &config);
    netwatch(&["status", "--config", &config]).fails(&[socket, "netwatch run"]);
    // What is no address is told before anybody is asked.
    netwatch(&["bgp", "rib", "nonsense", "--socket", socket]).fails(&["nonsense"]);
}

#[test]
fn a_report_without_a_journal_is_an_error_and_an_empty_journal_has_no_incidents() {
    let directory = directory();
    let missing = directory.path().join("none.db");
    let missing = missing.to_str().expect("text");
    for arguments in [&["report"][..], &["report", "--list"], &["report", "x"]] {
        let done = netwatch(&[arguments, &["--journal", missing]].concat());
        done.fails(&[missing, "has the daemon run on this host?"]);
    }
    assert!(!directory.path().join("none.db").exists());

    let empty = directory.path().join("journal.db");
    drop(journal::Journal::open(&empty).expect("journal"));
    let empty = empty.to_str().expect("text");
    let list = netwatch(&["report", "--list", "--journal", empty]).ok();
    assert!(list.contains("no incidents"), "{list:?}");
    let list = netwatch(&["report", "--list", "--json", "--journal", empty]).json();
    assert_eq!(list, serde_json::json!([]));
    netwatch(&["report", "--journal", empty]).fails(&["no incidents in", empty]);
    netwatch(&["report", "nobody-1", "--journal", empty]).fails(&["nobody-1"]);

    let garbage = file(
        &directory,
        "garbage.db",
        "this is no database, it is a text\n",
    );
    netwatch(&["report", "--journal", &garbage]).fails(&[&garbage]);
}

#[test]
fn a_trace_that_could_see_nothing_says_what_is_missing() {
    netwatch(&["trace", "messages"]).fails(&["--port", "--process"]);
    netwatch(&["trace", "sched"]).fails(&["--process"]);
    netwatch(&["trace", "udp", "--port", "53"]).fails(&["--process"]);
    assert_eq!(netwatch(&["trace", "nonsense"]).code, Some(2));
    assert_eq!(netwatch(&["trace", "--port", "0"]).code, Some(2));
}

#[test]
fn doctor_tells_by_its_exit_code_whether_all_will_work() {
    if unprivileged() {
        return;
    }
    let host = common::Host::new();
    let checks = host.netwatch(&["doctor", "--json"]);
    let failed = |checks: &serde_json::Value| -> Vec<serde_json::Value> {
        let checks = checks.as_array().expect("a list").iter();
        checks.filter(|c| c["ok"] == false).cloned().collect()
    };
    // On a kernel that cannot do it all, every failure has its remedy.
    let code = checks.code;
    let parsed: serde_json::Value = serde_json::from_str(&checks.stdout).expect("JSON");
    let bad = failed(&parsed);
    assert_eq!(code, Some(i32::from(!bad.is_empty())), "{bad:#?}");
    for check in bad {
        assert!(check["remedy"].is_string(), "{check:#}");
    }
    let names: Vec<&str> = parsed
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|c| c["subject"].as_str())
        .collect();
    for wanted in ["kernel", "privileges", "btf", "host.state_dir"] {
        assert!(names.contains(&wanted), "{names:?}");
    }

    // Each probe was really attached; the kernel says to what. What nothing asks for is shown as such.
    let check = |subject: &str| {
        let checks = parsed.as_array().expect("a list").iter();
        checks
            .into_iter()
            .find(|check| check["subject"] == subject)
            .unwrap_or_else(|| panic!("no {subject} in {parsed:#}"))
            .clone()
    };
    assert_eq!(
        check("probe.tcp_state")["detail"],
        "tp_btf/inet_sock_set_state"
    );
    assert_eq!(check("probe.heartbeat")["detail"], "perf_event/cpu-clock");
    let unasked = check("probe.sched_switch");
    assert_eq!(
        (&unasked["ok"], &unasked["unasked"]),
        (&true.into(), &true.into())
    );
    let watching = host.write(
        "watch.toml",
        "[watch]\nprocesses = [\"nobody\"]\n[block]\ndevices = [\"nodisk\"]\n",
    );
    let done = host.netwatch(&["doctor", "--json", "--config", &watching]);
    let asked: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    let asked = asked.as_array().expect("a list");
    assert!(asked.iter().any(|check| {
        check["subject"] == "probe.sched_switch" && check["detail"] == "tp_btf/sched_switch"
    }));
    assert!(asked.iter().any(|check| {
        check["subject"] == "block.devices nodisk"
            && check["ok"] == false
            && check["remedy"].is_string()
    }));
    assert_eq!(done.code, Some(1));

    let config = host.write(
        "missing.toml",
        "[tcp]\nebpf = false\n[[egress]]\nname = \"a\"\ninterface = \"wan0\"\ngateways = [\"192.0.2.1\"]\n\
         [[egress]]\nname = \"b\"\ninterface = \"nowhere0\"\ngateways = [\"192.0.3.1\"]\n",
    );
    let done = host.netwatch(&["doctor", "--config", &config]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    let line = done
        .stdout
        .lines()
        .position(|line| line.starts_with("FAIL") && line.contains("nowhere0"))
        .unwrap_or_else(|| panic!("{done:#?}"));
    let remedy = done.stdout.lines().nth(line + 1).unwrap_or_default();
    assert!(
        remedy.contains("remedy: correct `egress.interface`"),
        "{done:#?}"
    );
    assert!(done.stdout.contains("checks failed"), "{done:#?}");
    assert!(
        done.stdout
            .lines()
            .any(|l| l.starts_with("ok") && l.contains("wan0")),
        "{done:#?}"
    );
    let done = host.netwatch(&["doctor", "--json", "--config", &config]);
    assert_eq!(done.code, Some(1));
    let parsed = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(failed(&parsed).len(), 1, "{parsed:#}");

    let good = host.write(
        "good.toml",
        "[tcp]\nebpf = false\n[probe]\nflow_sources = [\"198.51.100.10\"]\n\
         [[egress]]\nname = \"a\"\ninterface = \"wan0\"\ngateways = [\"192.0.2.1\"]\n\
         [[egress]]\nname = \"b\"\ninterface = \"wan1\"\ngateways = [\"192.0.3.1\"]\n",
    );
    host.netwatch(&["doctor", "--config", &good]).ok();
}
