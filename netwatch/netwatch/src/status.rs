//! `netwatch status`, and how every command asks the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use api::{Client, ClientError, PeerInfo, Reply, Request, StatusReply};
use events::{Incident, PlanMode};

use crate::cli::{Configured, Query};
use crate::{bgp, show, wiring};

/// Lines of a list that may be long; `--json` has all.
const MOST: usize = 5;

/// One request to the running daemon; its error becomes ours.
pub async fn ask(query: &Query, request: &Request) -> Result<Reply> {
    let socket = socket(&query.socket, &query.configured)?;
    match Client::connect(&socket).await?.request(request).await? {
        Reply::Error(error) => bail!("{}", error.message),
        reply => Ok(reply),
    }
}

/// The daemon's socket: the one that is named, or the configured one.
pub fn socket(named: &Option<PathBuf>, configured: &Configured) -> Result<PathBuf> {
    match named {
        Some(socket) => Ok(socket.clone()),
        None => Ok(wiring::socket(&wiring::load(configured.config.as_deref())?)),
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
    kernel(status);
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
    let recordings = &status.recordings;
    section(
        "recordings, the newest first (netwatch replay)",
        recordings.get(..MOST).unwrap_or(recordings),
        |info| {
            println!(
                "  {:<48} {:>6} KiB{}",
                info.incident,
                info.bytes.div_ceil(1024),
                if info.open { "  still recording" } else { "" }
            );
        },
    );
    if recordings.len() > MOST {
        println!("  and {} more", recordings.len() - MOST);
    }
}

fn section<T>(title: &str, rows: &[T], row: impl FnMut(&T)) {
    if !rows.is_empty() {
        println!("\n{title}");
        rows.iter().for_each(row);
    }
}

fn kernel(status: &StatusReply) {
    let kernel = &status.kernel;
    let indented = |line: &String| println!("  {line}");
    if let Some(why) = &kernel.off {
        println!("\nkernel probes\n  all off: {why}");
        return;
    }
    let probes: Vec<String> = kernel.probes.iter().map(show::probe).collect();
    section("kernel probes", &probes, indented);
    let collector = show::collector(kernel, &status.counters);
    section("collector, over the last minute", &collector, indented);
    section("watched processes", &kernel.watched, |process| {
        println!(
            "  {:>7} {:<15} by {}",
            process.pid,
            process.comm,
            process.why.join(", ")
        );
    });
    section(
        "watched threads, those that waited longest for a CPU, in ms",
        &show::threads(kernel, MOST),
        indented,
    );
    section(
        "watched threads, those with most UDP",
        &show::udp(kernel, MOST),
        indented,
    );
    section("disks, in ms", &show::disks(kernel), indented);
    for (series, title) in [
        ("peer_rtt", "slowest peers by round-trip time"),
        ("peer_handshake", "slowest peers by handshake"),
        ("peer_send", "slowest sends by peer"),
        ("peer_receive", "slowest receives by peer"),
    ] {
        let slowest: Vec<String> = show::slowest(kernel, series)
            .into_iter()
            .take(MOST)
            .map(|info| format!("{:<40} {}", show::whose(info), show::quantiles(info)))
            .collect();
        section(
            &format!("{title}, over the last minute, in ms"),
            &slowest,
            indented,
        );
    }
}

fn peer(info: &PeerInfo) {
    let path: Vec<String> = info.as_path.iter().map(|asn| asn.0.to_string()).collect();
    println!(
        "  {:<40} {:<8} {:>2} conn  rtt {:>6} ms (usual {:>6})  retransmits {:<4} {:<20} {:<24} via {}",
        info.peer.to_string(),
        show::state(info.state),
        info.connections,
        show::ms_or_dash(info.srtt),
        show::ms_or_dash(info.baseline) + if info.rtt_spike { " SPIKE" } else { "" },
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
