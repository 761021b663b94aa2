//! `netwatch status`, and how every command asks the daemon.

use std::process::ExitCode;

use anyhow::{Result, bail};
use api::{Client, ClientError, PeerInfo, PeerState, Reply, Request, StatusReply};
use events::{Incident, PlanMode};

use crate::cli::Query;
use crate::{bgp, wiring};

/// One request to the running daemon; its error becomes ours.
pub async fn ask(query: &Query, request: &Request) -> Result<Reply> {
    let socket = match &query.socket {
        Some(socket) => socket.clone(),
        None => wiring::socket(&wiring::load(query.configured.config.as_deref())?),
    };
    match Client::connect(&socket).await?.request(request).await? {
        Reply::Error(error) => bail!("{}", error.message),
        reply => Ok(reply),
    }
}

/// Nobody answers on the socket: no daemon runs.
pub fn no_daemon(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Connect { .. }))
}

/// Prints the daemon's status.
pub async fn run(query: &Query) -> Result<ExitCode> {
    let Reply::Status(status) = ask(query, &Request::Status).await? else {
        bail!("the daemon answered something else");
    };
    if query.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &StatusReply) {
    println!(
        "netwatch {} on {}, pid {}, up {:.0} s; failover {}{}",
        status.version,
        status.host,
        status.pid,
        status.uptime.as_secs_f64(),
        match status.mode {
            PlanMode::Shadow => "in shadow mode",
            PlanMode::Act => "acts",
        },
        if status.kill_switch {
            ", KILL SWITCH SET"
        } else {
            ""
        },
    );
    section("kernel probes", &status.probes, |probe| {
        println!("  {probe}")
    });
    section("egresses", &status.egresses, |egress| {
        let carrier = match egress.carrier {
            Some(true) => "up",
            Some(false) => "DOWN",
            None => "not known yet",
        };
        println!("  {} ({}) {carrier}", egress.name, egress.interface);
        for target in &egress.targets {
            println!(
                "    {:<44} {:<5} {:<6} {:>9}  lost {} of {}",
                format!("{:?}", target.target),
                format!("{:?}", target.source).to_lowercase(),
                match target.alive {
                    Some(true) => "alive",
                    Some(false) => "DEAD",
                    None => "?",
                },
                target.rtt.map_or_else(String::new, |rtt| format!(
                    "{:.1} ms",
                    rtt.as_secs_f64() * 1e3
                )),
                target.lost,
                target.sent,
            );
        }
    });
    section("BGP neighbours", &status.neighbors, |info| {
        print!("  ");
        bgp::neighbor(info);
    });
    section("peers", &status.peers, peer);
    section("routes we own", &status.plans, |info| {
        for route in &info.plan.routes {
            println!(
                "  plan {}: {} via {} ({})",
                info.plan.id.0, route.prefix, route.gateway, route.egress
            );
        }
    });
    section("incidents", &status.incidents, incident);
}

fn section<T>(title: &str, rows: &[T], row: impl FnMut(&T)) {
    if !rows.is_empty() {
        println!("\n{title}");
        rows.iter().for_each(row);
    }
}

fn peer(info: &PeerInfo) {
    let milliseconds = |value: Option<std::time::Duration>| {
        value.map_or_else(
            || "-".to_owned(),
            |value| format!("{:.1}", value.as_secs_f64() * 1e3),
        )
    };
    let path: Vec<String> = info.as_path.iter().map(|asn| asn.0.to_string()).collect();
    println!(
        "  {:<40} {:<8} {:>2} conn  rtt {:>6} ms (usual {:>6})  retransmits {:<4} {:<20} {:<24} via {}",
        info.peer.to_string(),
        match info.state {
            PeerState::Down => "down",
            PeerState::Opening => "opening",
            PeerState::Up => "up",
            PeerState::Overdue => "OVERDUE",
        },
        info.connections,
        milliseconds(info.srtt),
        milliseconds(info.baseline) + if info.rtt_spike { " SPIKE" } else { "" },
        info.retransmits.values().sum::<u64>(),
        info.prefix
            .map_or_else(String::new, |prefix| prefix.to_string()),
        path.join(" "),
        info.route.as_ref().map_or_else(
            || "-".to_owned(),
            |route| {
                route
                    .egress
                    .as_ref()
                    .map_or_else(|| route.interface.clone(), ToString::to_string)
            }
        ),
    );
}

fn incident(incident: &Incident) {
    println!(
        "  {} {:?}: {}{}",
        incident.id,
        incident.state,
        incident
            .verdict
            .as_ref()
            .map_or_else(|| "no verdict yet".to_owned(), ToString::to_string),
        incident.time_to_verdict.map_or_else(String::new, |time| {
            format!(
                " (verdict {:.0} ms after the onset)",
                time.as_secs_f64() * 1e3
            )
        }),
    );
}
