//! BIRD 2.

use super::{Options, Plan, REASON, words};
use crate::lab::{LOCAL_AS, PREFIX6, PREFIXES, ROUTER_AS};

pub fn plan(mut plan: Plan, options: &Options) -> Plan {
    let [first, second] = PREFIXES;
    let communities = options.communities(|n| format!("bgp_community.add((64500,{n})); "));
    let mut lines = String::new();
    if options.passive {
        lines += "passive yes;\n";
    }
    if let Some(password) = options.password {
        lines += &format!("password \"{password}\";\n");
    }
    if options.graceful_restart {
        lines += "graceful restart yes; graceful restart time 60;\n";
    }
    if options.ttl_security {
        lines += "ttl security on;\n";
    }
    if let Some(role) = options.role {
        lines += &format!("local role {role};\n");
    }
    if options.link_local {
        plan.network.push("addr add fe80::1/64 dev r0 nodad");
        lines += "interface \"r0\";\n";
    }
    let paths = if options.add_path {
        "add paths tx;"
    } else {
        ""
    };
    let other = if options.add_path {
        format!("protocol static spare {{ ipv4 {{ preference 90; }}; route {first} unreachable; }}")
    } else {
        String::new()
    };
    let config = format!(
        "router id 192.0.2.1;
         {other}
         protocol device {{}}
         protocol static flap {{ ipv4; route {first} unreachable; }}
         protocol static s4 {{ ipv4; route {second} unreachable {{ {communities} }}; }}
         protocol static s6 {{ ipv6; route {PREFIX6} unreachable; }}
         protocol bgp feed {{
           local {ours} as {ROUTER_AS};
           neighbor {theirs} as {LOCAL_AS};
           hold time 9;
           connect delay time 1; connect retry time 1; error wait time 1, 2;
           enable extended messages on;
           {lines}
           ipv4 {{ import all; export all; next hop address 192.0.2.1; {paths} }};
           ipv6 {{ import all; export all; next hop address 2001:db8:2::1; {paths} }};
         }}\n",
        ours = options.address(),
        theirs = options.netwatch(),
    );
    plan.files.push(("bird.conf", config));
    plan.remains.push("bird.ctl");
    let (config, socket) = (plan.path("bird.conf"), plan.path("bird.ctl"));
    plan.command = words(&["/usr/sbin/bird", "-f", "-c", &config, "-s", &socket]);
    if options.graceful_restart {
        plan.again = words(&["-R"]);
    }
    plan.after = vec![control(&plan, &["show", "status"])];
    plan
}

fn control(plan: &Plan, command: &[&str]) -> Vec<String> {
    let mut all = words(&["/usr/sbin/birdc", "-s", &plan.path("bird.ctl")]);
    all.extend(words(command));
    all
}

pub fn flap(plan: &Plan, announce: bool) -> Vec<String> {
    control(plan, &[if announce { "enable" } else { "disable" }, "flap"])
}

pub fn refresh(plan: &Plan) -> Vec<Vec<String>> {
    vec![
        control(plan, &["reload", "in", "feed"]),
        control(plan, &["reload", "out", "feed"]),
    ]
}

pub fn shutdown(plan: &Plan) -> Vec<String> {
    control(plan, &["disable", "feed", &format!("\"{REASON}\"")])
}
