//! `netwatch failover status|rollback`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use api::{Reply, Request, RoutesReply};
use events::{PlanId, PlanMode};

use crate::cli::Failover;
use crate::status::ask;

/// Asks the daemon.
pub async fn run(command: &Failover) -> Result<ExitCode> {
    match command {
        Failover::Status(query) => {
            let Reply::Routes(routes) = ask(query, &Request::Routes).await? else {
                bail!("the daemon answered something else");
            };
            if query.json {
                println!("{}", serde_json::to_string_pretty(&routes)?);
            } else {
                print(&routes);
            }
        }
        Failover::Rollback { plan, query } => {
            let request = Request::Rollback {
                plan: plan.map(PlanId),
            };
            let Reply::Rollback(reply) = ask(query, &request).await? else {
                bail!("the daemon answered something else");
            };
            if query.json {
                println!("{}", serde_json::to_string_pretty(&reply)?);
            } else if reply.plans.is_empty() {
                println!("nothing is installed");
            } else {
                for plan in &reply.plans {
                    println!("plan {}: being taken back", plan.0);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(routes: &RoutesReply) {
    let mode = match routes.mode {
        PlanMode::Shadow => "shadow: plans are only told",
        PlanMode::Act => "act: plans are installed",
    };
    println!("mode         {mode}");
    println!(
        "kill switch  {}",
        if routes.kill_switch {
            "SET: nothing is installed"
        } else {
            "not set"
        }
    );
    println!(
        "maintenance  {}",
        match &routes.maintenance {
            Some(window) => format!("{window}: nothing new is installed"),
            None => "none".to_owned(),
        }
    );
    if routes.plans.is_empty() {
        println!("routes       none");
    }
    for info in &routes.plans {
        println!(
            "plan {}      {} for {:.1} s, lease left {:.1} s, {}",
            info.plan.id.0,
            info.plan.incident,
            info.installed_for.as_secs_f64(),
            info.lease_left.as_secs_f64(),
            if info.verified {
                "verified"
            } else {
                "verifying"
            },
        );
        println!("  why        {}", info.plan.rationale);
        for route in &info.plan.routes {
            println!(
                "  route      {} via {} dev {} src {} metric {} table {} ({})",
                route.prefix,
                route.gateway,
                route.interface,
                route.source,
                route.metric,
                route.table,
                route.egress,
            );
        }
    }
    for refusal in &routes.refusals {
        println!("refused      {refusal}");
    }
}
