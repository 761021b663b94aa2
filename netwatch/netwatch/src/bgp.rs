//! `netwatch bgp neighbors`; `rib` is in `bgp_rib`, `decode` in `bgp_decode`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use api::{NeighborInfo, Reply, Request};

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
            } else if reply.neighbors.is_empty() {
                println!("no neighbours are configured");
            } else {
                reply.neighbors.iter().for_each(neighbor);
            }
        }
        Bgp::Rib(arguments) => return crate::bgp_rib::run(arguments).await,
        Bgp::Decode(arguments) => return crate::bgp_decode::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

/// One neighbour, on a line.
pub fn neighbor(info: &NeighborInfo) {
    println!(
        "{:<24} {:<12} egress {:<8} {:<12} {} IPv4, {} IPv6 routes{}{}",
        info.neighbor.to_string(),
        info.asn.to_string(),
        info.egress.to_string(),
        info.state,
        info.ipv4_routes,
        info.ipv6_routes,
        if info.stale { "  STALE" } else { "" },
        info.last_error
            .as_ref()
            .map_or_else(String::new, |error| format!("  last error: {error}")),
    );
}
