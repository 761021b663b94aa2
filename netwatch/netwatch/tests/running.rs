//! A configured daemon: what it answers, and that bad input does not stop it.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bgp_core::{Families, Frame, Framer, MessageType, Open, encode};
use common::exposition::exposition;
use common::{Daemon, Host, Net, eventually, get, unprivileged};
use events::Asn;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
use serde_json::Value;

const METRICS: &str = "127.0.0.1:9464";
const DELAY: &str = "netwatch_collector_delay_microseconds";
const KEY: &str = "0123456789abcdef0123456789abcdef";

/// The pager's API in the wide network: takes events, and answers what it is told to. Beside each
/// event it notes, as `routes_seen`, the routes of netwatch that the kernel held at that moment.
struct Pager {
    address: SocketAddr,
    answer: Arc<AtomicU16>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Pager {
    fn new(host: &Host, answer: u16) -> Self {
        let listener = host
            .router
            .inside(|| TcpListener::bind("203.0.113.200:0"))
            .expect("listener");
        let pager = Self {
            address: listener.local_addr().expect("address"),
            answer: Arc::new(AtomicU16::new(answer)),
            events: Arc::default(),
        };
        let (answer, events) = (pager.answer.clone(), pager.events.clone());
        let net = Arc::new(host.net.handle());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (net, answer, events) = (net.clone(), answer.clone(), events.clone());
                std::thread::spawn(move || serve(&stream, &net, &answer, &events));
            }
        });
        pager
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().expect("lock").clone()
    }
}

/// Routes with netwatch's protocol number.
fn ours(net: &Net) -> String {
    net.ip("route show table all proto 198")
}

/// Requests of one connection, until it ends.
fn serve(
    stream: &TcpStream,
    net: &Net,
    answer: &AtomicU16,
    events: &Mutex<Vec<Value>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut post = false;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            post |= line.starts_with("POST /v2/enqueue ");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let code = answer.load(Ordering::SeqCst);
        if post {
            let mut event: Value = serde_json::from_slice(&body).expect("an event is JSON");
            event["routes_seen"] = ours(net).into();
            events.lock().expect("lock").push(event);
        }
        let text = r#"{"status":"as told","message":"","errors":[]}"#;
        write!(
            &mut &*stream,
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .ok()?;
    }
}

/// The whole configuration. The second router never connects.
fn config(host: &Host, mode: &str, pager: Option<&Pager>) -> String {
    let directory = host.directory.path().display();
    let pager = pager.map_or_else(String::new, |pager| {
        format!(
            "[pager]\nurl = \"http://{}/v2/enqueue\"\nrouting_key = \"{KEY}\"\n",
            pager.address
        )
    });
    let text = format!(
        r#"
[host]
name = "test-host"
state_dir = "{directory}/state"
runtime_dir = "{directory}/runtime"
[[egress]]
name = "a"
interface = "wan0"
gateways = ["192.0.2.1"]
[[egress]]
name = "b"
interface = "wan1"
gateways = ["192.0.3.1"]
[probe]
flow_sources = ["198.51.100.10"]
anchors = [
  {{ address = "203.0.113.1", asn = 64601 }},
  {{ address = "203.0.113.65", asn = 64602 }},
  {{ address = "203.0.113.129", asn = 64603 }},
]
[bgp]
local_as = 64496
router_id = "192.0.2.2"
listen = ["0.0.0.0:179"]
[[bgp.neighbor]]
address = "192.0.2.1"
asn = 64500
egress = "a"
[[bgp.neighbor]]
address = "192.0.3.99"
asn = 64501
egress = "b"
[failover]
mode = "{mode}"
prefixes = ["203.0.113.0/24"]
kill_switch = "{directory}/failover.off"
[metrics]
listen = "{METRICS}"
{pager}"#
    );
    host.write("netwatch.toml", &text)
}

/// A running daemon, its configuration's path, and how to ask it.
struct Running {
    daemon: Daemon,
    host: Host,
    config: String,
}

impl Running {
    fn new(host: Host, pager: Option<&Pager>) -> Self {
        Self::in_mode("shadow", host, pager)
    }

    fn in_mode(mode: &str, host: Host, pager: Option<&Pager>) -> Self {
        let config = config(&host, mode, pager);
        Self::with(host, config)
    }

    fn with(host: Host, config: String) -> Self {
        let socket = host.directory.path().join("runtime/netwatch.sock");
        let daemon = host.daemon(&["run", "--config", &config], &socket);
        Self {
            daemon,
            host,
            config,
        }
    }

    fn ask(&self, arguments: &[&str]) -> common::Done {
        self.host
            .netwatch(&[arguments, &["--config", &self.config]].concat())
    }

    fn neighbor(&self, address: &str) -> Value {
        let reply = self.ask(&["bgp", "neighbors", "--json"]).json();
        let mut neighbors = reply["neighbors"].as_array().expect("a list").iter();
        neighbors
            .find(|neighbor| neighbor["neighbor"] == address)
            .expect("the neighbour is listed")
            .clone()
    }

    /// A counter or gauge, by its full name.
    fn counter(&self, name: &str) -> u64 {
        let status = self.ask(&["status", "--json"]).json();
        status["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no {name}"))
    }
}

/// A router made of bytes, at 192.0.2.1.
struct Router {
    stream: TcpStream,
    framer: Framer,
}

impl Router {
    fn connect(host: &Host, asn: u32) -> Self {
        let stream = host.router.inside(|| {
            // The route to the first uplink's subnet chooses 192.0.2.1 as the source.
            TcpStream::connect("192.0.2.2:179").expect("the daemon listens")
        });
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        let mut router = Self {
            stream,
            framer: Framer::default(),
        };
        let open = Open {
            four_octet_as: true,
            families: Families::BOTH,
            ..Open::new(Asn(asn), 90, Ipv4Addr::new(192, 0, 2, 1))
        };
        router.send(&open.encode());
        router
    }

    fn establish(host: &Host) -> Self {
        let mut router = Self::connect(host, 64500);
        assert_eq!(router.next().expect("OPEN").kind, MessageType::Open);
        assert_eq!(
            router.next().expect("KEEPALIVE").kind,
            MessageType::Keepalive
        );
        router.send(&encode(MessageType::Keepalive, &[]));
        router
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// The next message; `None` at the connection's end.
    fn next(&mut self) -> Option<Frame> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = self.framer.next_frame().expect("a frame") {
                return Some(frame);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.framer.push(&chunk[..count]),
                Err(error) => panic!("no message: {error}"),
            }
        }
    }

    /// Code and subcode of the NOTIFICATION that ends the connection.
    fn notification(&mut self) -> (u8, u8) {
        let mut found = None;
        while let Some(frame) = self.next() {
            if frame.kind == MessageType::Notification {
                found = Some((frame.body[0], frame.body[1]));
            }
        }
        found.expect("a NOTIFICATION")
    }
}

/// 203.0.113.0/24 with AS_PATH 64500 64601 and NEXT_HOP 192.0.2.1.
fn update() -> Vec<u8> {
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 10, 2, 2];
    attributes.extend(64500_u32.to_be_bytes());
    attributes.extend(64601_u32.to_be_bytes());
    attributes.extend([0x40, 3, 4, 192, 0, 2, 1]);
    let mut body = vec![0, 0, 0, attributes.len() as u8];
    body.extend(attributes);
    body.extend([24, 203, 0, 113]);
    encode(MessageType::Update, &body)
}

#[test]
fn a_wrong_router_is_told_why_and_the_right_one_is_heard() {
    if unprivileged() {
        return;
    }
    let mut running = Running::new(Host::new(), None);
    let unreachable = running.neighbor("192.0.3.99");
    let state = unreachable["state"].as_str().expect("state");
    assert!(["Idle", "Active"].contains(&state), "{unreachable}");

    // Bad Peer AS (RFC 4271 section 6.2).
    let mut wrong = Router::connect(&running.host, 64999);
    assert_eq!(wrong.notification(), (2, 2));
    let neighbor = eventually("the reason is told", || {
        let neighbor = running.neighbor("192.0.2.1");
        let error = neighbor["last_error"].as_str()?.to_owned();
        (error.contains("64999") && error.contains("64500")).then_some(neighbor)
    });
    assert_ne!(neighbor["state"], "Established");
    assert!(
        running.daemon.log().contains("64999"),
        "{}",
        running.daemon.log()
    );
    let text = running.ask(&["bgp", "neighbors"]).ok();
    assert!(text.contains("64999") && text.contains("AS64500"), "{text}");

    // No BGP at all, then a message that ends too early, then lengths that lie.
    let mut noise = running
        .host
        .router
        .inside(|| TcpStream::connect("192.0.2.2:179"))
        .expect("the daemon listens");
    noise
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .expect("sent");
    drop(noise);
    let mut short = Router::establish(&running.host);
    let whole = update();
    short.send(&whole[..whole.len() - 6]);
    drop(short);
    eventually("the loss is told", || {
        let neighbor = running.neighbor("192.0.2.1");
        (neighbor["state"] != "Established" && neighbor["last_error"].is_string()).then_some(())
    });
    let mut lying = Router::establish(&running.host);
    lying.send(&encode(MessageType::Update, &[0, 0, 0, 200, 0x40, 1, 1, 0]));
    assert_eq!(lying.notification(), (3, 1), "Malformed Attribute List");
    eventually("the reason is told", || {
        let neighbor = running.neighbor("192.0.2.1");
        let error = neighbor["last_error"].as_str()?.to_lowercase();
        (error.contains("update") || error.contains("attribute")).then_some(())
    });

    // The daemon went on: the right router is heard.
    let mut right = Router::establish(&running.host);
    right.send(&update());
    let rib = eventually("the route", || {
        let done = running.ask(&["bgp", "rib", "203.0.113.1", "--json"]);
        (done.code == Some(0)).then(|| done.json())
    });
    let route = &rib["routes"][0];
    assert_eq!(route["route"]["prefix"], "203.0.113.0/24");
    assert_eq!(route["route"]["as_path"], serde_json::json!([64500, 64601]));
    assert_eq!(
        (&route["egress"], &route["stale"]),
        (&"a".into(), &false.into())
    );
    let text = running.ask(&["bgp", "rib", "203.0.113.0/24"]).ok();
    assert!(
        text.contains(" 192.0.2.1 ") && text.contains(" 64500 64601\n"),
        "{text}"
    );
    let none = running.ask(&["bgp", "rib", "10.0.0.1"]);
    assert_eq!(none.code, Some(1), "{none:#?}");
    assert!(
        none.stdout.contains("no route covers 10.0.0.1"),
        "{none:#?}"
    );
    let up = "netwatch_bgp_session_up{neighbor=\"192.0.2.1\",egress=\"a\"}";
    assert_eq!(running.counter(up), 1);

    // Its end makes the route stale; it is not forgotten.
    drop(right);
    eventually("the route is stale", || {
        let rib = running.ask(&["bgp", "rib", "203.0.113.1", "--json"]).json();
        (rib["routes"][0]["stale"] == true).then_some(())
    });
    assert_eq!(running.counter(up), 0);
    assert_eq!(running.daemon.terminate(), 0, "{}", running.daemon.log());
}

#[test]
fn a_pager_that_answers_500_is_tried_again() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let pager = Pager::new(&host, 500);
    let mut running = Running::new(host, Some(&pager));

    let test = running.ask(&["page", "--test"]);
    assert_eq!(test.code, Some(1), "{test:#?}");
    assert!(
        test.stdout.contains("FAILED") && test.stdout.contains("500"),
        "{test:#?}"
    );
    let test = running.ask(&["page", "--test", "--json"]);
    assert_eq!(test.code, Some(1));
    let told: Value = serde_json::from_str(&test.stdout).expect("JSON");
    let attempts = told["attempts"].as_array().expect("a list");
    assert!(
        !attempts.is_empty() && attempts.iter().all(|a| a["accepted"] == false),
        "{told:#}"
    );
    let tests = pager.events().len();
    assert!(tests >= 2);

    // A real incident: the first uplink loses its carrier.
    eventually("the probes run", || {
        (running.counter("netwatch_probes_replies_total") > 50).then_some(())
    });
    running.host.router.ip("link set r0 down");
    // Probes may tell of it before the kernel does: first the gateway is called dead, then the link.
    let pages = || -> Vec<Value> {
        let events = pager.events().into_iter();
        events
            .filter(|e| e["payload"]["class"] != "test" && e["event_action"] == "trigger")
            .collect()
    };
    eventually("three attempts to page", || {
        (pages().len() >= 3).then_some(())
    });
    let tried = pages();
    let keys: BTreeSet<String> = tried.iter().map(|e| e["dedup_key"].to_string()).collect();
    assert_eq!(keys.len(), 1, "{tried:#?}");
    assert_eq!(tried[0]["payload"]["component"], "a");
    assert_eq!(tried[0]["payload"]["source"], "test-host");
    assert!(running.counter("netwatch_page_failures_total") >= 2);
    assert_eq!(running.counter("netwatch_pages_accepted_total"), 0);
    assert!(
        running.daemon.log().contains("500"),
        "{}",
        running.daemon.log()
    );
    assert!(
        !running.daemon.log().contains(KEY),
        "the key stays out of the log"
    );

    pager.answer.store(202, Ordering::SeqCst);
    eventually("it is accepted", || {
        (running.counter("netwatch_pages_accepted_total") >= 1).then_some(())
    });
    let id = tried[0]["dedup_key"].as_str().expect("a name").to_owned();

    // The timeline has it all, from the journal, with and without the daemon.
    let report = running.ask(&["report", &id]).ok();
    for line in ["of a is d", "failed", "500", "accepted"] {
        assert!(report.contains(line), "no {line:?} in {report}");
    }
    let list = running.ask(&["report", "--list"]).ok();
    assert!(list.contains(&id), "{list}");
    running.host.router.ip("link set r0 up");
    let resolve = eventually("the link is back: resolve", || {
        let mut events = pager.events().into_iter();
        events.find(|e| e["event_action"] == "resolve" && e["dedup_key"] == *id)
    });
    assert_eq!(resolve["routing_key"], KEY);
    let test = running.ask(&["page", "--test"]).ok();
    assert!(test.contains("accepted (202)"), "{test}");
    assert_eq!(running.daemon.terminate(), 0, "{}", running.daemon.log());
    let report = running.ask(&["report", "--json"]).json();
    assert!(report.to_string().contains(&id));
}

#[test]
fn the_kill_switch_and_the_rollback_answer() {
    if unprivileged() {
        return;
    }
    let mut running = Running::new(Host::new(), None);
    let status = running.ask(&["failover", "status"]).ok();
    assert!(status.contains("maintenance  none\n"), "{status}");
    assert!(
        status.contains("kill switch  not set") && status.contains("shadow"),
        "{status}"
    );
    let said = running.ask(&["failover", "rollback"]).ok();
    assert_eq!(said, "nothing is installed\n");
    let said = running.ask(&["failover", "rollback", "--json"]).json();
    assert_eq!(said, serde_json::json!({"plans": []}));
    running
        .ask(&["failover", "rollback", "--plan", "99"])
        .fails(&["no routes of plan 99", "netwatch failover status"]);

    let switch = running.host.directory.path().join("failover.off");
    let engaged = || running.ask(&["failover", "status", "--json"]).json()["kill_switch"] == true;
    std::fs::write(&switch, "").expect("file");
    eventually("the kill switch is seen", || engaged().then_some(()));
    let status = running.ask(&["failover", "status"]).ok();
    assert!(status.contains("kill switch  SET"), "{status}");
    assert_eq!(running.counter("netwatch_kill_switch"), 1);
    let status = running.ask(&["status"]).ok();
    assert!(status.contains("KILL SWITCH SET"), "{status}");
    std::fs::remove_file(&switch).expect("removed");
    eventually("and that it is gone", || (!engaged()).then_some(()));

    // What is not configured says how to get it.
    running
        .ask(&["page", "--test"])
        .fails(&["no pager is configured", "[pager]"]);
    assert_eq!(running.daemon.terminate(), 0);
}

#[test]
fn a_maintenance_window_shows() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let path = config(&host, "shadow", None);
    let mut text = std::fs::read_to_string(&path).expect("written before");
    text.push_str(
        "[[failover.maintenance]]\nstart = 2000-01-01T00:00:00Z\nend = 2999-01-01T00:00:00Z\nreason = \"router\"\n",
    );
    host.write("netwatch.toml", &text);
    let mut running = Running::with(host, path);
    let window = "router, until 2999-01-01T00:00:00Z";
    eventually("the window is told", || {
        let routes = running.ask(&["failover", "status", "--json"]).json();
        (routes["maintenance"] == window).then_some(())
    });
    let status = running.ask(&["failover", "status"]).ok();
    let line = format!("maintenance  {window}: nothing new is installed\n");
    assert!(status.contains(&line), "{status}");
    assert_eq!(running.counter("netwatch_maintenance"), 1);
    assert_eq!(running.counter("netwatch_kill_switch"), 0);
    assert_eq!(running.daemon.terminate(), 0);
}

/// Every place where something can get lost, by the name of its counter.
const LOSSES: [&str; 39] = [
    "netwatch_route_commands_dropped_total",
    "netwatch_correlator_dropped_total",
    "netwatch_tcp_events_unknown_total",
    "netwatch_tcp_samples_stale_total",
    "netwatch_tcp_deadlines_unsampled_total",
    "netwatch_connections_evicted_total",
    "netwatch_connections_refused_total",
    "netwatch_peers_evicted_total",
    "netwatch_kernel_records_lost_total{ring=\"urgent\"}",
    "netwatch_kernel_records_lost_total{ring=\"bulk\"}",
    "netwatch_kernel_records_malformed_total",
    "netwatch_socket_table_full_total",
    "netwatch_socket_table_orphans_total",
    "netwatch_connections_untracked_total",
    "netwatch_collector_dropped_total{kind=\"sample\"}",
    "netwatch_collector_dropped_total{kind=\"edge\"}",
    "netwatch_reconcile_failed_total",
    "netwatch_collector_stalls_total",
    "netwatch_collector_heartbeat_gaps_total",
    "netwatch_percentile_series_evicted_total",
    "netwatch_disk_requests_untimed_total{cause=\"new_disk\"}",
    "netwatch_disk_requests_untimed_total{cause=\"too_many\"}",
    "netwatch_disks_unwatched_total",
    "netwatch_bpf_program_skipped_total{program=\"tcp_receive\"}",
    "netwatch_probes_skipped_total",
    "netwatch_probes_unmatched_total",
    "netwatch_probe_results_dropped_total",
    "netwatch_host_signals_dropped_total",
    "netwatch_suspect_probes_dropped_total",
    "netwatch_probe_packets_dropped_total",
    "netwatch_netlink_restarts_total",
    "netwatch_page_failures_total",
    "netwatch_pages_refused_total",
    "netwatch_pages_dropped_total",
    "netwatch_pages_not_persisted_total",
    "netwatch_page_outcomes_lost_total",
    "netwatch_journal_lost_total",
    "netwatch_journal_errors_total",
    "netwatch_bgp_strangers_refused_total",
];

#[test]
fn metrics_and_status_tell_everything_in_forms_that_tools_read() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let pager = Pager::new(&host, 202);
    let mut running = Running::new(host, Some(&pager));
    eventually("both uplinks' probes are answered", || {
        let status = running.ask(&["status", "--json"]).json();
        let egresses = status["egresses"].as_array().expect("a list");
        let alive = |egress: &Value| {
            let targets = egress["targets"].as_array().expect("a list");
            !targets.is_empty() && targets.iter().all(|target| target["alive"] == true)
        };
        (egresses.len() == 2 && egresses.iter().all(alive)).then_some(())
    });
    let mut streams = chatter(&running.host);
    eventually("round-trip times and delays are measured", || {
        for stream in &mut streams {
            stream.write_all(b"x").expect("sent");
        }
        let status = running.ask(&["status", "--json"]).json();
        let series = status["kernel"]["percentiles"].as_array().expect("a list");
        let rtt = series.iter().find(|one| one["series"] == "peer_rtt")?;
        assert!(rtt["p50_ms"].as_f64() <= rtt["max_ms"].as_f64(), "{rtt}");
        assert!(rtt["count"].as_u64() > Some(0), "{rtt}");
        series
            .iter()
            .any(|one| one["series"] == "collector_delay")
            .then_some(())
    });

    let address = METRICS.parse().expect("address");
    let (head, body) = get(&running.host.net, address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let samples = exposition(&body);
    for name in LOSSES {
        assert!(samples.contains_key(name), "no {name}");
    }
    assert!(samples["netwatch_probes_replies_total"] > 0.0);
    assert!(samples.keys().all(|name| name.starts_with("netwatch_")));
    let (head, _) = get(&running.host.net, address, "/other");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");

    let status = running.ask(&["status", "--json"]).json();
    let counters = status["counters"].as_object().expect("counters");
    let summaries = |name: &&String| name.contains("_microseconds");
    for name in samples.keys().filter(|name| !summaries(name)) {
        assert!(counters.contains_key(name), "status lacks {name}");
    }
    let delay = |quantile| samples[&format!("{DELAY}{{quantile=\"{quantile}\"}}")];
    assert!(delay("0.5") > 0.1, "no record is handled before it is made");
    assert!(delay("0.5") <= delay("0.99") && delay("0.99") <= delay("1"));
    assert!(delay("0.5") < 1e6, "a second is no plausible delay");
    assert!(samples[&format!("{DELAY}_count")] >= 1.0);
    assert_eq!(
        samples["netwatch_probe_attached{probe=\"heartbeat\",hook=\"perf_event/cpu-clock\"}"],
        1.0
    );
    let rtt = samples
        .keys()
        .filter(|name| name.starts_with("netwatch_peer_rtt_microseconds{peer="))
        .count();
    assert!(rtt > 0 && rtt % 5 == 0, "all quantiles of each peer");
    assert_eq!(status["host"], "test-host");
    assert_eq!(status["pid"], running.daemon.pid());
    assert_eq!(status["neighbors"].as_array().map(Vec::len), Some(2));
    let text = running.ask(&["status"]).ok();
    for title in [
        "netwatch ",
        "kernel probes",
        "egresses",
        "BGP neighbours",
        "192.0.3.99",
    ] {
        assert!(text.contains(title), "no {title:?} in {text}");
    }
    for (arguments, wanted) in [
        (&["status"][..], "delay p50 "),
        (&["status"], "heartbeat        perf_event/cpu-clock"),
        (&["status"], "slowest peers by round-trip time"),
        (&["top"], "rtt 50%"),
        (&["top", "--once"], "delay p50 "),
        (&["top", "--once"], "203.0.113."),
    ] {
        let text = running.ask(arguments).ok();
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
        assert!(!text.contains('\x1b'), "no terminal: {text}");
    }
    let routes = running.ask(&["failover", "status", "--json"]).json();
    assert_eq!(routes["mode"], "shadow");
    let neighbors = running.ask(&["bgp", "neighbors"]).ok();
    let rows = neighbors.lines().filter(|line| !line.starts_with(' '));
    assert_eq!(rows.count(), 2, "{neighbors}");
    let rib = running.ask(&["bgp", "rib", "203.0.113.1", "--json"]);
    assert_eq!(rib.code, Some(1), "no route yet");
    let rib: Value = serde_json::from_str(&rib.stdout).expect("JSON");
    assert_eq!(rib["routes"], serde_json::json!([]));
    assert_eq!(running.daemon.terminate(), 0, "{}", running.daemon.log());
}

/// The validator's side of connections that are never idle, from the flows' own address.
fn chatter(host: &Host) -> Vec<TcpStream> {
    let listener = host
        .router
        .inside(|| TcpListener::bind("0.0.0.0:7000"))
        .expect("listener");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let connect = |to: &str| {
        let flow = SockaddrIn::new(198, 51, 100, 10, 0);
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("socket");
        bind(fd.as_raw_fd(), &flow).expect("bound");
        let to: SocketAddrV4 = to.parse().expect("address");
        nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("connected");
        TcpStream::from(fd)
    };
    let addresses = [
        "203.0.113.1:7000",
        "203.0.113.65:7000",
        "203.0.113.129:7000",
    ];
    let streams: Vec<TcpStream> = host.net.inside(|| {
        (0..9)
            .map(|n| connect(addresses[n % addresses.len()]))
            .collect()
    });
    for stream in &streams {
        let (mut out, mut back) = (
            stream.try_clone().expect("clone"),
            stream.try_clone().expect("clone"),
        );
        std::thread::spawn(move || std::io::copy(&mut back, &mut std::io::sink()));
        std::thread::spawn(move || {
            while out.write_all(&[7; 32]).is_ok() {
                std::thread::sleep(Duration::from_millis(40));
            }
        });
    }
    streams
}

/// What the pager's request finds in the kernel: the routes came first. They go on request, and
/// what a plan of the daemon's installed goes with the daemon.
#[test]
fn routes_are_in_before_the_page_arrives_and_go_on_request() {
    if unprivileged() {
        return;
    }
    let host = Host::new();
    let pager = Pager::new(&host, 202);
    let streams = chatter(&host);
    let before = host.net.ip("route show table all");
    let mut running = Running::in_mode("act", host, Some(&pager));
    eventually("baselines of all three peers", || {
        let status = running.ask(&["status", "--json"]).json();
        let peers = status["peers"].as_array().expect("a list").clone();
        let known = peers.iter().filter(|peer| peer["baseline_ms"].is_number());
        (known.count() == 3).then_some(())
    });
    assert_eq!(ours(&running.host.net), "");

    running.host.router.ip("link set r0 down");
    let first = eventually("a page", || pager.events().into_iter().next());
    let found = first["routes_seen"].as_str().expect("noted").to_owned();
    assert_eq!(found.lines().count(), 3, "{found}{first:#}");
    assert!(
        found
            .lines()
            .all(|route| route.contains("via 192.0.3.1 dev wan1")),
        "{found}"
    );
    assert_eq!(first["payload"]["component"], "a", "{first:#}");
    let status = eventually("the routes are verified", || {
        let status = running.ask(&["failover", "status", "--json"]).json();
        (status["plans"][0]["verified"] == true).then_some(status)
    });
    assert_eq!(
        (&status["mode"], status["plans"].as_array().map(Vec::len)),
        (&"act".into(), Some(1))
    );
    eventually("the page says so", || {
        let pages = pager.events();
        pages
            .iter()
            .any(|page| page.to_string().contains("verified"))
            .then_some(())
    });

    let plan = status["plans"][0]["plan"]["id"].to_string();
    let said = running.ask(&["failover", "rollback", "--plan", &plan]).ok();
    assert_eq!(said, format!("plan {plan}: being taken back\n"));
    eventually("the routes are gone", || {
        ours(&running.host.net).is_empty().then_some(())
    });
    let status = running.ask(&["failover", "status", "--json"]).json();
    assert_eq!(status["plans"], serde_json::json!([]));
    running
        .ask(&["failover", "rollback", "--plan", &plan])
        .fails(&["no routes of plan"]);

    running.host.router.ip("link set r0 up");
    eventually("the incident is resolved", || {
        let events = pager.events();
        events
            .iter()
            .any(|event| event["event_action"] == "resolve")
            .then_some(())
    });
    let status = running.ask(&["status", "--json"]).json();
    let recordings = status["recordings"].as_array().expect("a list");
    assert!(!recordings.is_empty());
    assert_eq!(recordings[0]["open"], true, "{recordings:#?}");
    // While it is still written to it can be replayed already.
    let incident = first["dedup_key"].as_str().expect("text").to_owned();
    let early = running.ask(&["replay", &incident, "--json"]).json();
    assert_eq!(early["equal"], true, "{:#}", early["difference"]);
    assert_eq!(early["closed"], Value::Null);

    assert_eq!(running.daemon.terminate(), 0, "{}", running.daemon.log());
    assert_eq!(running.host.net.ip("route show table all"), before);
    drop(streams);
    replays(&running, &incident);
}

/// The recording that the daemon left, by the command.
fn replays(running: &Running, incident: &str) {
    let whole = running.ask(&["replay", incident, "--json"]).json();
    assert_eq!(whole["equal"], true, "{:#}", whole["difference"]);
    assert_eq!(whole["incident"], incident);
    assert_eq!(whole["damage"], serde_json::json!([]));
    assert_eq!(whole["closed"], "the daemon stopped");
    let effects = whole["effects"].as_array().expect("a list");
    let asked = |name: &str| {
        effects
            .iter()
            .filter(|e| e["effect"]["effect"] == name)
            .count()
    };
    assert_eq!((asked("install"), asked("revert")), (1, 1));
    assert!(asked("page") >= 3 && asked("journal") > 8);
    assert_eq!(whole["effects_compared"], effects.len());

    let text = running.ask(&["replay", incident]).ok();
    assert!(text.contains("EQUAL") && text.contains(incident), "{text}");
    let text = running.ask(&["report", incident]).ok();
    assert!(
        text.contains(&format!("recordings/{incident}.nwrec")),
        "{text}"
    );
    let keys = running.ask(&["replay", "--list-keys", incident]).ok();
    assert!(keys.contains("correlator.thresholds.confirm"), "{keys}");

    // In shadow mode nothing would have been installed; the file says what was.
    let arguments = [
        "replay",
        incident,
        "--what-if",
        "policy.mode=shadow",
        "--json",
    ];
    let other = running.ask(&arguments).json();
    assert_eq!(other["changes"][0]["recorded"], "act");
    let story = other["incidents"]
        .as_array()
        .and_then(|pairs| {
            pairs
                .iter()
                .find(|pair| pair["recorded"]["incident"] == incident)
        })
        .expect("the incident");
    assert!(story["recorded"]["route"].is_array(), "{story:#}");
    assert_eq!(
        story["what_if"]["verdict"][1],
        story["recorded"]["verdict"][1]
    );

    let path = whole["recording"].as_str().expect("text");
    let unusable = |arguments: &[&str], says: &str| {
        let done = running.ask(&[&["replay"], arguments].concat());
        assert_eq!(done.code, Some(2), "{done:#?}");
        assert!(done.stderr.contains(says), "{done:#?}");
    };
    unusable(
        &[path, "--what-if", "policy.setle=1s"],
        "is `policy.settle` meant?",
    );
    unusable(&[path, "--until", "soon"], "--until takes");
    unusable(&["nobody-1"], "neither a file nor an incident");
    let short = running.host.directory.path().join("short.nwrec");
    let bytes = std::fs::read(path).expect("bytes");
    std::fs::write(&short, &bytes[..100]).expect("written");
    unusable(&[&short.display().to_string()], "header");
    std::fs::write(&short, &bytes[..bytes.len() - 200]).expect("written");
    let torn = running.ask(&["replay", &short.display().to_string()]).ok();
    assert!(torn.contains("DAMAGED") && torn.contains("EQUAL"), "{torn}");
}
