//! The safety check: the last word on every plan, written without trust in how it came about.

use std::fmt;
use std::net::IpAddr;

use events::{EgressName, Plan, Prefix, RouteSpec, Timestamp};
use serde::{Deserialize, Serialize};

use crate::plan::{permitted, protected};
use crate::{Facts, Policy, Proof};

/// Prefixes shorter than these are defaults in disguise (`0.0.0.0/1`, `2000::/3`).
const SHORTEST_V4: u8 = 8;
/// See [`SHORTEST_V4`].
const SHORTEST_V6: u8 = 16;

/// Why a plan may not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "refusal")]
#[allow(missing_docs)]
pub enum Refusal {
    /// The kill switch is set.
    KillSwitch,
    /// Nothing else is against the plan than that people work on the network.
    Maintenance { reason: String },
    /// A plan without routes means nothing, or everything.
    Empty,
    /// More routes than the cap.
    TooMany { routes: usize, cap: usize },
    /// A default route, or a prefix so short that it comes to the same.
    Default { prefix: Prefix },
    /// Outside every allowed prefix.
    NotAllowed { prefix: Prefix },
    /// Overlaps something protected.
    Protected { prefix: Prefix, protected: Prefix },
    /// Loopback, link-local or multicast.
    Special { prefix: Prefix },
    /// Not an egress of the configuration, or not its interface or gateway.
    UnknownEgress { egress: EgressName },
    /// Not an address that the flows use, or of another address family.
    ForeignSource { source: IpAddr },
    /// The local table, the unspecified one, or a metric that the kernel takes for another.
    BadTarget {
        prefix: Prefix,
        table: u32,
        metric: u32,
    },
    /// No flow-source probe sent after the onset was answered through the egress.
    Unproven { prefix: Prefix, egress: EgressName },
    /// The egress's link or gateway is dead.
    BackupDead { egress: EgressName },
    /// The same destination twice.
    Duplicate { prefix: Prefix },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillSwitch => f.write_str("the kill switch is set"),
            Self::Maintenance { reason } => write!(f, "maintenance window: {reason}"),
            Self::Empty => f.write_str("the plan has no routes"),
            Self::TooMany { routes, cap } => write!(
                f,
                "{routes} routes are more than failover.max_routes = {cap} permits"
            ),
            Self::Default { prefix } => write!(f, "{prefix} is a default route or close to one"),
            Self::NotAllowed { prefix } => {
                write!(f, "{prefix} lies in none of failover.prefixes")
            }
            Self::Protected { prefix, protected } => {
                write!(f, "{prefix} overlaps {protected}, which is protected")
            }
            Self::Special { prefix } => write!(f, "{prefix} is not a unicast destination"),
            Self::UnknownEgress { egress } => {
                write!(f, "egress {egress} is not configured so")
            }
            Self::ForeignSource { source } => {
                write!(
                    f,
                    "{source} is not one of probe.flow_sources, or of another family"
                )
            }
            Self::BadTarget {
                prefix,
                table,
                metric,
            } => {
                write!(
                    f,
                    "{prefix} table {table} metric {metric} is not a valid target"
                )
            }
            Self::Unproven { prefix, egress } => write!(
                f,
                "backup {egress} is not proven for {prefix} with the flows' source"
            ),
            Self::BackupDead { egress } => write!(f, "backup {egress} is dead"),
            Self::Duplicate { prefix } => write!(f, "{prefix} is planned twice"),
        }
    }
}

/// Whether a plan for an incident that began at `onset` may be carried out.
///
/// # Errors
/// The first rule that the plan breaks.
pub fn check(plan: &Plan, onset: Timestamp, policy: &Policy, facts: &Facts) -> Result<(), Refusal> {
    if facts.kill_switch {
        return Err(Refusal::KillSwitch);
    }
    if plan.routes.is_empty() {
        return Err(Refusal::Empty);
    }
    if plan.routes.len() > policy.max_routes {
        return Err(Refusal::TooMany {
            routes: plan.routes.len(),
            cap: policy.max_routes,
        });
    }
    for (index, route) in plan.routes.iter().enumerate() {
        destination(route, policy)?;
        way(route, onset, policy, facts)?;
        let before = plan.routes.get(..index).unwrap_or_default();
        if before
            .iter()
            .any(|other| other.prefix == route.prefix && other.table == route.table)
        {
            return Err(Refusal::Duplicate {
                prefix: route.prefix,
            });
        }
    }
    // The last: what else is wrong with the plan is no advice.
    facts.in_maintenance().map_or(Ok(()), Err)
}

fn destination(route: &RouteSpec, policy: &Policy) -> Result<(), Refusal> {
    let prefix = route.prefix;
    let shortest = if prefix.addr().is_ipv6() {
        SHORTEST_V6
    } else {
        SHORTEST_V4
    };
    if prefix.prefix_len() < shortest {
        return Err(Refusal::Default { prefix });
    }
    let network = prefix.network();
    let special = network.is_loopback()
        || network.is_multicast()
        || network.is_unspecified()
        || match network {
            IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
            IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
        };
    if special || prefix != prefix.trunc() {
        return Err(Refusal::Special { prefix });
    }
    if let Some(protected) = protected(policy).find(|p| p.contains(&prefix) || prefix.contains(p)) {
        return Err(Refusal::Protected { prefix, protected });
    }
    if !permitted(&prefix, policy) {
        return Err(Refusal::NotAllowed { prefix });
    }
    let metric_taken_for_another = prefix.addr().is_ipv6() && route.metric == 0;
    if route.table == 0 || route.table == 255 || metric_taken_for_another {
        return Err(Refusal::BadTarget {
            prefix,
            table: route.table,
            metric: route.metric,
        });
    }
    Ok(())
}

fn way(route: &RouteSpec, onset: Timestamp, policy: &Policy, facts: &Facts) -> Result<(), Refusal> {
    let ipv6 = route.prefix.addr().is_ipv6();
    let configured = policy.egress(&route.egress).is_some_and(|egress| {
        egress.interface == route.interface && egress.gateway(ipv6) == Some(route.gateway)
    });
    if !configured {
        return Err(Refusal::UnknownEgress {
            egress: route.egress.clone(),
        });
    }
    if !policy.flow_sources.contains(&route.source) || route.source.is_ipv6() != ipv6 {
        return Err(Refusal::ForeignSource {
            source: route.source,
        });
    }
    if !facts.usable(&route.egress, route.gateway, onset) {
        return Err(Refusal::BackupDead {
            egress: route.egress.clone(),
        });
    }
    // At the least some target answered the flows' own address through this egress since the
    // onset. Which prefixes that proves is the planner's finer question.
    let proven = facts
        .probes
        .flow_targets(&route.egress, route.source, onset, None)
        .any(|(_, proof)| proof == Proof::Alive);
    if !proven {
        return Err(Refusal::Unproven {
            prefix: route.prefix,
            egress: route.egress.clone(),
        });
    }
    Ok(())
}
