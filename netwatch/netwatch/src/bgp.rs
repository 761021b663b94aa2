//! `netwatch bgp neighbors|rib`; `decode` is in `bgp_decode`, `replay` in `bgp_replay`.

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
            } else if reply.neighbors.is_empty() && reply.routers.is_empty() && reply.ris.is_none()
            {
                println!("no neighbours are configured");
            } else {
                reply.neighbors.iter().for_each(neighbor);
            }
            if !query.json {
                crate::bgp_stations::print(&reply);
            }
        }
        Bgp::Rib { query_for, query } => {
            let request = Request::BgpRib {
                query: Some(query_for.parse()?),
            };
            let Reply::BgpRib(reply) = ask(query, &request).await? else {
                bail!("the daemon answered something else");
            };
            if query.json {
                println!("{}", serde_json::to_string_pretty(&reply)?);
            } else if reply.routes.is_empty() {
                println!("no route covers {query_for}");
            }
            if !query.json {
                for route in &reply.routes {
                    let path: Vec<String> = route
                        .route
                        .as_path
                        .iter()
                        .map(|asn| asn.0.to_string())
                        .collect();
                    println!(
                        "{:<24} via {:<20} egress {:<8} from {:<20} path {}{}",
                        route.route.prefix.to_string(),
                        route.route.next_hop.to_string(),
                        route.egress.to_string(),
                        route.neighbor.to_string(),
                        path.join(" "),
                        if route.stale { "  STALE" } else { "" },
                    );
                }
                if reply.truncated {
                    println!("... and more: ask for a longer prefix");
                }
            }
            if reply.routes.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Bgp::Decode(arguments) => return crate::bgp_decode::run(arguments),
        Bgp::Replay(arguments) => return crate::bgp_replay::run(arguments),
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
