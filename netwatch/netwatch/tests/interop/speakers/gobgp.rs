//! GoBGP. Its routes are added by its client.

use super::{Options, Plan, REASON, words};
use crate::lab::{LOCAL_AS, PREFIX6, PREFIXES, ROUTER_AS};

pub fn plan(mut plan: Plan, options: &Options) -> Plan {
    let ours = options.address();
    let theirs = options.netwatch();
    let password = options
        .password
        .map_or_else(String::new, |key| format!("auth-password = \"{key}\"\n"));
    let mut lines = String::new();
    if options.graceful_restart {
        lines += "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 60\n";
    }
    if options.ttl_security {
        lines += "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n";
    }
    let mut families = String::new();
    for family in ["ipv4-unicast", "ipv6-unicast"] {
        families += &format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n"
        );
        if options.add_path {
            families += "[neighbors.afi-safis.add-paths.config]\nsend-max = 8\n";
        }
        if options.graceful_restart {
            families += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n";
        }
    }
    let config = format!(
        "[global.config]
as = {ROUTER_AS}
router-id = \"192.0.2.1\"
port = 179
local-address-list = [\"{ours}\"]
[[neighbors]]
[neighbors.config]
neighbor-address = \"{theirs}\"
peer-as = {LOCAL_AS}
{password}[neighbors.timers.config]
hold-time = 9
keepalive-interval = 3
connect-retry = 1
idle-hold-time-after-reset = 1
[neighbors.transport.config]
local-address = \"{ours}\"
passive-mode = {passive}
{lines}{families}",
        passive = options.passive,
    );
    plan.files.push(("gobgp.toml", config));
    let config = plan.path("gobgp.toml");
    plan.command = words(&[
        "/usr/bin/gobgpd",
        "-t",
        "toml",
        "-f",
        &config,
        "--api-hosts",
        "127.0.0.1:50051",
        "--pprof-disable",
    ]);
    if options.graceful_restart {
        plan.again = words(&["-r"]);
    }
    let add = |prefix, family, hop| {
        words(&[
            "gobgp", "global", "rib", "add", prefix, "-a", family, "nexthop", hop,
        ])
    };
    plan.after = vec![
        add(PREFIXES[0], "ipv4", "192.0.2.1"),
        add(PREFIXES[1], "ipv4", "192.0.2.1"),
        add(PREFIX6, "ipv6", "2001:db8:2::1"),
    ];
    plan
}

pub fn flap(plan: &Plan, announce: bool) -> Vec<String> {
    if announce {
        plan.after[0].clone()
    } else {
        words(&["gobgp", "global", "rib", "del", PREFIXES[0], "-a", "ipv4"])
    }
}

pub fn refresh(plan: &Plan) -> Vec<Vec<String>> {
    ["softresetin", "softresetout"]
        .map(|command| words(&["gobgp", "neighbor", plan.netwatch, command]))
        .to_vec()
}

pub fn shutdown(plan: &Plan) -> Vec<String> {
    words(&[
        "gobgp",
        "neighbor",
        plan.netwatch,
        "shutdown",
        "--reason",
        REASON,
    ])
}
