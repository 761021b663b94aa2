//! ExaBGP. It takes commands from a file that a process of its own follows.

use super::{Options, Plan, words};
use crate::lab::{LOCAL_AS, PREFIX6, PREFIXES, ROUTER_AS};

pub fn plan(mut plan: Plan, options: &Options) -> Plan {
    let [first, second] = PREFIXES;
    let ours = options.address();
    let theirs = options.netwatch();
    let mut lines = String::new();
    if options.passive {
        lines += "  passive;\n  listen 179;\n";
    }
    if let Some(password) = options.password {
        lines += &format!("  md5-password '{password}';\n");
    }
    if options.ttl_security {
        lines += "  outgoing-ttl 255;\n  incoming-ttl 255;\n";
    }
    let mut capability = String::new();
    if options.graceful_restart {
        capability += "    graceful-restart 60;\n";
    }
    if options.add_path {
        capability += "    add-path send;\n";
    }
    let path = if options.add_path {
        "path-information 1.2.3.4;"
    } else {
        ""
    };
    // The one that is withdrawn without an identifier has none.
    let other = if options.add_path {
        format!("route {first} {{ next-hop 192.0.2.1; path-information 0.0.0.0; }}")
    } else {
        String::new()
    };
    let communities = options.communities(|n| format!(" 64500:{n}"));
    let tags = if communities.is_empty() {
        String::new()
    } else {
        format!("community [{communities} ];")
    };
    let config = format!(
        "process commands {{
  run /usr/bin/tail -n +1 -f {file};
  encoder text;
}}
neighbor {theirs} {{
  router-id 192.0.2.1;
  local-address {ours};
  local-as {ROUTER_AS};
  peer-as {LOCAL_AS};
  hold-time 9;
{lines}  capability {{
    asn4 enable;
    route-refresh enable;
    extended-message enable;
{capability}  }}
  family {{
    ipv4 unicast;
    ipv6 unicast;
  }}
  api {{
    processes [ commands ];
  }}
  static {{
    {other}
    route {first} {{ next-hop 192.0.2.1; {path} }}
    route {second} {{ next-hop 192.0.2.1; {path} {tags} }}
    route {PREFIX6} {{ next-hop 2001:db8:2::1; {path} }}
  }}
}}
",
        file = plan.path("commands"),
    );
    plan.files.push(("exabgp.conf", config));
    plan.files.push(("commands", String::new()));
    plan.command = words(&["/usr/sbin/exabgp", &plan.path("exabgp.conf")]);
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    plan.environment = vec![
        variable("exabgp.daemon.user", "root"),
        variable("exabgp.api.cli", "false"),
        variable("exabgp.api.ack", "false"),
        variable("exabgp.log.destination", "stdout"),
    ];
    plan
}

fn command(plan: &Plan, text: &str) -> Vec<String> {
    let file = plan.path("commands");
    words(&["sh", "-c", &format!("echo '{text}' >> {file}")])
}

pub fn flap(plan: &Plan, announce: bool) -> Vec<String> {
    let verb = if announce { "announce" } else { "withdraw" };
    command(
        plan,
        &format!("{verb} route {} next-hop 192.0.2.1", PREFIXES[0]),
    )
}

pub fn refresh(plan: &Plan) -> Vec<Vec<String>> {
    vec![command(plan, "announce route-refresh ipv4 unicast")]
}

pub fn shutdown(plan: &Plan) -> Vec<String> {
    command(plan, &format!("neighbor {} teardown 2", plan.netwatch))
}
