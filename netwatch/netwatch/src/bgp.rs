//! `netwatch bgp neighbors`; `rib` is in `bgp_rib`, `decode` in `bgp_decode`, `replay` in `bgp_replay`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use api::{NeighborInfo, Reply, Request, SessionInfo};

use crate::cli::Bgp;
use crate::status::ask;

/// Asks the daemon.
pub async fn run(command: &Bgp) -> Result<ExitCode> {
    match command {
        Bgp::Neighbors(query) => {
            let Reply::BgpNeighbors(reply) = ask(query, &Request::BgpNeighbors).await? else {
                bail!("the daemon answered something else");
            };
            if query.json {
                println!("{}", serde_json::to_string_pretty(&reply)?);
            } else if reply.neighbors.is_empty() && reply.routers.is_empty() && reply.ris.is_none()
            {
                println!("no neighbours are configured");
            } else {
                for info in &reply.neighbors {
                    neighbor(info);
                    if let Some(session) = &info.session {
                        details(info, session);
                    }
                }
            }
            if !query.json {
                crate::bgp_stations::print(&reply);
            }
        }
        Bgp::Refresh(arguments) => {
            let request = Request::BgpRefresh {
                neighbor: arguments.neighbor.parse()?,
                family: arguments.family.map(Into::into),
            };
            let Reply::BgpRefresh(reply) = ask(&arguments.query, &request).await? else {
                bail!("the daemon answered something else");
            };
            if arguments.query.json {
                println!("{}", serde_json::to_string(&reply)?);
            } else {
                let names: Vec<String> = reply.asked.iter().map(ToString::to_string).collect();
                println!("asked for the {} routes", names.join(" and "));
            }
        }
        Bgp::Rib(arguments) => return crate::bgp_rib::run(arguments).await,
        Bgp::Decode(arguments) => return crate::bgp_decode::run(arguments),
        Bgp::Replay(arguments) => return crate::bgp_replay::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// The rest of what is known, on lines of their own.
fn details(info: &NeighborInfo, session: &SessionInfo) {
    let line = |name: &str, text: String| println!("    {name:<14} {text}");
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let or = |flag: bool, yes: &'static str, no: &'static str| if flag { yes } else { no };
    let mut state = info.since.map_or_else(String::new, |since| {
        format!("{} for {}", info.state, seconds(since))
    });
    if let Some(hold) = session.hold_time {
        state += &format!(", hold time {}", seconds(hold));
    }
    if info.state == "Established" {
        state += or(session.complete, ", table complete", ", table on its way");
    }
    if let Some(left) = session.restarting {
        state += &format!(", restarting gracefully: {} left", seconds(left));
    }
    line("state", state);
    let mut kind = or(session.passive, "we wait for it", "we connect to it").to_owned();
    kind += or(session.dynamic, ", known by its prefix", "");
    kind += or(session.md5, ", TCP-MD5", "");
    if let Some(hops) = session.ttl_security {
        kind += &format!(", at most {hops} hops away (GTSM)");
    }
    line("neighbour", kind);
    line("we offer", session.local_capabilities.join(", "));
    if !session.peer_capabilities.is_empty() {
        line("it offers", session.peer_capabilities.join(", "));
    }
    let mut prefixes = format!(
        "{} IPv4, {} IPv6 of at most {} each",
        info.ipv4_routes, info.ipv6_routes, session.max_prefixes
    );
    prefixes += or(session.near_max_prefixes, ", NEAR THE LIMIT", "");
    match (session.refused, session.refused_for) {
        (true, Some(time)) => {
            prefixes += &format!(", EXCEEDED: refused for another {}", seconds(time));
        }
        (true, None) => prefixes += ", EXCEEDED: refused until netwatch restarts",
        (false, _) => {}
    }
    line("prefixes", prefixes);
    line(
        "received",
        format!(
            "{} UPDATEs and {} ROUTE-REFRESHs in {} sessions; errors: {} attributes discarded, {} treated as withdrawal, {} resets",
            session.updates,
            session.route_refreshes,
            session.sessions,
            session.attributes_discarded,
            session.treated_as_withdraw,
            session.session_resets,
        ),
    );
    if let Some(said) = &session.last_notification {
        let ago = said.ago.map(seconds).unwrap_or_default();
        let (code, subcode, name) = (said.code, said.subcode, &said.name);
        let text = said.text.as_ref().map(|text| format!(": {text}"));
        line(
            "NOTIFICATION",
            format!(
                "{} {ago} ago: {code}/{subcode} {name}{}",
                or(said.sent, "sent", "received"),
                text.unwrap_or_default()
            ),
        );
    }
    if let Some(error) = &info.last_error {
        line("last error", error.clone());
    }
}

/// One neighbour, on a line.
pub fn neighbor(info: &NeighborInfo) {
    println!(
        "{:<24} {:<12} egress {:<8} {:<12} {} IPv4, {} IPv6 routes{}{}{}",
        info.neighbor.to_string(),
        info.asn.to_string(),
        info.egress.to_string(),
        info.state,
        info.ipv4_routes,
        info.ipv6_routes,
        if info.stale { "  STALE" } else { "" },
        if info.partial {
            "  PARTIAL (bgp.memory_limit)"
        } else {
            ""
        },
        info.last_error
            .as_ref()
            .map_or_else(String::new, |error| format!("  last error: {error}")),
    );
}
