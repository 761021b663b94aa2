//! FRR: bgpd alone, without zebra.

use super::{Options, Plan, REASON, words};
use crate::lab::{LOCAL_AS, PREFIX6, PREFIXES, ROUTER_AS};

pub fn plan(mut plan: Plan, options: &Options) -> Plan {
    let [first, second] = PREFIXES;
    let theirs = options.netwatch();
    let mut lines = String::new();
    if options.passive {
        lines += &format!(" neighbor {theirs} passive\n");
    }
    if let Some(password) = options.password {
        lines += &format!(" neighbor {theirs} password {password}\n");
    }
    if options.ttl_security {
        lines += &format!(" neighbor {theirs} ttl-security hops 1\n");
    }
    if let Some(role) = options.role {
        lines += &format!(" neighbor {theirs} local-role {role}\n");
    }
    if options.graceful_restart {
        lines += " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n";
    }
    let paths = if options.add_path {
        format!("  neighbor {theirs} addpath-tx-all-paths\n")
    } else {
        String::new()
    };
    let communities = options.communities(|n| format!(" 64500:{n}"));
    let tag = if communities.is_empty() {
        String::new()
    } else {
        format!("route-map tag permit 10\n set community{communities}\n")
    };
    let tagged = if tag.is_empty() { "" } else { " route-map tag" };
    let config = format!(
        "log stdout
router bgp {ROUTER_AS}
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {theirs} remote-as {LOCAL_AS}
 neighbor {theirs} timers 3 9
 neighbor {theirs} timers connect 1
 neighbor {theirs} advertisement-interval 0
 neighbor {theirs} disable-connected-check
{lines} address-family ipv4 unicast
  network {first}
  network {second}{tagged}
  neighbor {theirs} activate
  neighbor {theirs} route-map hop out
{paths} exit-address-family
 address-family ipv6 unicast
  network {PREFIX6}
  neighbor {theirs} activate
  neighbor {theirs} route-map hop out
{paths} exit-address-family
route-map hop permit 10
 set ip next-hop 192.0.2.1
 set ipv6 next-hop global 2001:db8:2::1
{tag}"
    );
    plan.files.push(("frr.conf", config));
    plan.remains.extend(["bgpd.vty", "bgpd.pid"]);
    let (config, pid) = (plan.path("frr.conf"), plan.path("bgpd.pid"));
    let directory = plan.directory.display().to_string();
    plan.command = words(&[
        "/usr/lib/frr/bgpd",
        "-Z",
        "-n",
        "-S",
        "-p",
        "179",
        "-A",
        "127.0.0.1",
        "-P",
        "0",
        "-f",
        &config,
        "-i",
        &pid,
        "--vty_socket",
        &directory,
    ]);
    plan.after = vec![control(&plan, &["show version"])];
    plan
}

fn control(plan: &Plan, commands: &[&str]) -> Vec<String> {
    let directory = plan.directory.display().to_string();
    let mut all = words(&["vtysh", "--vty_socket", &directory, "-d", "bgpd"]);
    for command in commands {
        all.extend(words(&["-c", command]));
    }
    all
}

pub fn flap(plan: &Plan, announce: bool) -> Vec<String> {
    let no = if announce { "" } else { "no " };
    control(
        plan,
        &[
            "configure terminal",
            &format!("router bgp {ROUTER_AS}"),
            "address-family ipv4 unicast",
            &format!("{no}network {}", PREFIXES[0]),
        ],
    )
}

pub fn refresh(plan: &Plan) -> Vec<Vec<String>> {
    vec![
        control(plan, &["clear bgp ipv4 unicast * soft in"]),
        control(plan, &["clear bgp ipv4 unicast * soft out"]),
    ]
}

pub fn shutdown(plan: &Plan) -> Vec<String> {
    control(
        plan,
        &[
            "configure terminal",
            &format!("router bgp {ROUTER_AS}"),
            &format!("neighbor {} shutdown message {REASON}", plan.netwatch),
        ],
    )
}
