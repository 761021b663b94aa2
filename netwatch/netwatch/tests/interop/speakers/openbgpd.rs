//! OpenBGPD's portable version. Its routes are added by its client.

use super::{Options, Plan, REASON, words};
use crate::lab::{LOCAL_AS, PREFIX6, PREFIXES, ROUTER_AS};

pub fn plan(mut plan: Plan, options: &Options) -> Plan {
    // Its processes change their root to this place; the package leaves it to systemd.
    std::fs::create_dir_all("/run/openbgpd").expect("/run/openbgpd");
    let mut lines = String::new();
    if options.passive {
        lines += "  passive\n";
    }
    if let Some(password) = options.password {
        lines += &format!("  tcp md5sig password {password}\n");
    }
    if let Some(role) = options.role {
        lines += &format!("  announce policy {role}\n");
    }
    if options.ttl_security {
        lines += "  ttl-security yes\n";
    }
    if options.add_path {
        lines += "  announce add-path send all\n";
    }
    let config = format!(
        "AS {ROUTER_AS}
router-id 192.0.2.1
socket \"{socket}\"
fib-update no
holdtime 9
connect-retry 1
listen on {ours}
neighbor {theirs} {{
  remote-as {LOCAL_AS}
  announce IPv4 unicast
  announce IPv6 unicast
  announce enhanced refresh yes
{lines}}}
allow from any
allow to any
",
        socket = plan.path("bgpd.sock"),
        ours = options.address(),
        theirs = options.netwatch(),
    );
    plan.files.push(("bgpd.conf", config));
    plan.remains.push("bgpd.sock");
    let config = plan.path("bgpd.conf");
    plan.command = words(&["/usr/sbin/bgpd", "-d", "-f", &config]);
    // For the family that the session does not run over it takes its next hop from the first
    // interface, whose loopback addresses are none for others.
    plan.network = vec![
        "addr del 127.0.0.1/8 dev lo",
        "addr del ::1/128 dev lo",
        "addr add 2001:db8:ff::1/128 dev lo nodad",
    ];
    plan.after = [PREFIXES[0], PREFIXES[1], PREFIX6]
        .map(|prefix| control(&plan, &["network", "add", prefix]))
        .to_vec();
    plan
}

fn control(plan: &Plan, command: &[&str]) -> Vec<String> {
    let mut all = words(&["/usr/sbin/bgpctl", "-s", &plan.path("bgpd.sock")]);
    all.extend(words(command));
    all
}

pub fn flap(plan: &Plan, announce: bool) -> Vec<String> {
    let verb = if announce { "add" } else { "delete" };
    control(plan, &["network", verb, PREFIXES[0]])
}

pub fn refresh(plan: &Plan) -> Vec<Vec<String>> {
    vec![control(plan, &["neighbor", plan.netwatch, "refresh"])]
}

pub fn shutdown(plan: &Plan) -> Vec<String> {
    control(plan, &["neighbor", plan.netwatch, "down", REASON])
}

pub fn revive(plan: &Plan) -> Vec<String> {
    control(plan, &["neighbor", plan.netwatch, "up"])
}
