//! A network namespace with two uplinks, in a thread of its own.
//!
//! `wa` (192.0.2.2, 2001:db8:a::2) carries the default route at metric 100, `wb` (192.0.3.2,
//! 2001:db8:b::2) at metric 200; 198.51.100.10 and 2001:db8:1::10 sit on loopback.
#![allow(dead_code)]

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use events::{IncidentId, Plan, PlanId, PlanMode, RouteSpec};
use routes::{EgressLink, Settings, WatchdogCommand};

pub const PROTOCOL: u8 = 198;
pub const SOURCE: &str = "198.51.100.10";
pub const SOURCE6: &str = "2001:db8:1::10";

/// Runs a test in a namespace; it goes with the thread (and with the test's children).
pub fn in_namespace<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("unshare needs CAP_SYS_ADMIN");
        for command in [
            "link set lo up",
            "link add wa type veth peer name pa",
            "link add wb type veth peer name pb",
            "link set pa up",
            "link set pb up",
            "link set wa up",
            "link set wb up",
            "addr add 198.51.100.10/32 dev lo",
            "addr add 2001:db8:1::10/128 dev lo",
            "addr add 192.0.2.2/24 dev wa",
            "addr add 192.0.3.2/24 dev wb",
            "addr add 2001:db8:a::2/64 dev wa nodad",
            "addr add 2001:db8:b::2/64 dev wb nodad",
            "route add default via 192.0.2.1 metric 100",
            "route add default via 192.0.3.1 metric 200",
            "-6 route add default via 2001:db8:a::1 metric 100",
            "-6 route add default via 2001:db8:b::1 metric 200",
        ] {
            ip(command);
        }
        for conf in ["all", "wa", "wb"] {
            sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "2");
        }
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(test());
    })
    .join()
    .expect("test thread");
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{name}"), value).expect("sysctl");
}

/// How many routes of ours the kernel holds.
pub fn ours() -> usize {
    let v4 = ip(&format!("-4 route show table all proto {PROTOCOL}"));
    let v6 = ip(&format!("-6 route show table all proto {PROTOCOL}"));
    v4.lines().count() + v6.lines().count()
}

pub fn settings(runtime_dir: &Path) -> Settings {
    Settings {
        protocol: PROTOCOL,
        runtime_dir: runtime_dir.to_owned(),
        egresses: ["a", "b"]
            .map(|name| EgressLink {
                name: name.into(),
                interface: format!("w{name}"),
            })
            .to_vec(),
        restore_limit: 2,
        permit: None,
        watchdog: Some(watchdog(runtime_dir)),
    }
}

/// This very test binary, as the watchdog: see `watchdog_process` in the tests.
pub fn watchdog(runtime_dir: &Path) -> WatchdogCommand {
    WatchdogCommand {
        exe: std::env::current_exe().expect("own path"),
        args: child_arguments("watchdog_process", runtime_dir),
    }
}

pub fn child_arguments(test: &str, runtime_dir: &Path) -> Vec<String> {
    vec![
        "--ignored".to_owned(),
        "--exact".to_owned(),
        "--nocapture".to_owned(),
        test.to_owned(),
        format!("runtime={}", runtime_dir.display()),
    ]
}

/// The runtime directory among a child's arguments.
pub fn child_runtime_dir() -> Option<PathBuf> {
    std::env::args().find_map(|argument| argument.strip_prefix("runtime=").map(PathBuf::from))
}

/// A route through `wb`.
pub fn via_b(prefix: &str, metric: u32) -> RouteSpec {
    let prefix: events::Prefix = prefix.parse().expect("prefix");
    let (gateway, source) = if prefix.addr().is_ipv6() {
        ("2001:db8:b::1", SOURCE6)
    } else {
        ("192.0.3.1", SOURCE)
    };
    RouteSpec {
        prefix,
        egress: "b".into(),
        interface: "wb".to_owned(),
        gateway: gateway.parse().expect("gateway"),
        source: source.parse().expect("source"),
        metric,
        table: 254,
    }
}

pub fn plan(id: u64, routes: Vec<RouteSpec>) -> Plan {
    Plan {
        id: PlanId(id),
        incident: IncidentId("test".to_owned()),
        mode: PlanMode::Act,
        lease: Duration::from_secs(30),
        routes,
        rationale: String::new(),
    }
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Waits, bounded, for something to become true.
pub async fn eventually(what: &str, mut true_now: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !true_now() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
