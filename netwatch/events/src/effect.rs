//! What the engine asks for.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{EgressName, Entry, IncidentId, Page, Plan, PlanId, Prefix, ProbeSource, RevertReason};

/// An effect's number, the same in a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EffectId(pub u64);

/// A burst of probes at suspects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// At whom.
    pub targets: Vec<IpAddr>,
    /// The flows' source address for each address family among the targets.
    pub flow_sources: Vec<IpAddr>,
    /// Through which egresses.
    pub egresses: Vec<EgressName>,
    /// With which kinds of source.
    pub sources: Vec<ProbeSource>,
    /// How many per target, egress and source.
    pub count: u8,
    /// Time between two of them.
    pub spacing: Duration,
}

/// A request of the engine. Adapters carry it out and answer with an [`Outcome`](crate::Outcome).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "effect")]
pub enum Effect {
    /// Probe suspects.
    Probe(ProbeRequest),
    /// Watch these addresses in the RIB and the FIB, all of them: facts are wanted.
    Watch {
        /// Addresses of peers and, for the FIB, the source their flows use.
        peers: Vec<(crate::PeerKey, Option<IpAddr>)>,
    },
    /// Install a plan's routes.
    Install(Plan),
    /// The plan is verified and still wanted: renew its lease.
    RenewLease {
        /// Which plan.
        plan: PlanId,
    },
    /// Take a plan's routes back.
    Revert {
        /// Which plan.
        plan: PlanId,
        /// Why.
        reason: RevertReason,
    },
    /// The plan's routes are in: have the connections to these prefixes that wait for a backed-off
    /// retransmission timer retransmit at once (RFC 6069).
    Nudge {
        /// Which plan.
        plan: PlanId,
        /// For which incident.
        incident: IncidentId,
        /// Where its routes lead.
        prefixes: Vec<Prefix>,
    },
    /// Page.
    Page(Page),
    /// Write a line of the timeline.
    Journal(Entry),
}
