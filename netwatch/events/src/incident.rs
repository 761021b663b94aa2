//! Incidents and verdicts.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Asn, BgpSummary, EgressName, PeerKey, PlanId, Prefix, Timestamp};

/// An incident's name: unique across restarts, the same in a replay, and the pager's `dedup_key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncidentId(pub String);

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the break is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The egress's link: carrier lost, interface down, or no neighbour resolution.
    LocalLink {
        /// Which egress.
        egress: EgressName,
    },
    /// The egress's gateway router: carrier up, no answer.
    Gateway {
        /// Which egress.
        egress: EgressName,
    },
    /// The network beyond a living gateway: anchors in several ASes are dead through this egress only.
    UpstreamAs {
        /// Which egress.
        egress: EgressName,
        /// The AS next to ours on the broken paths, if BGP names one.
        asn: Option<Asn>,
    },
    /// Failures share an origin or transit AS while the upstream works.
    RemoteAs {
        /// The AS.
        asn: Asn,
    },
    /// Failures share one prefix while others of the same origin work.
    Prefix {
        /// The prefix.
        prefix: Prefix,
    },
    /// One peer while others of its prefix work.
    SinglePeer {
        /// The peer.
        peer: PeerKey,
    },
    /// Packets leave through a proven path and answers to the flows' address do not come back.
    ReturnPath {
        /// The egress whose upstream carried the answers, if known.
        egress: Option<EgressName>,
    },
    /// This host was stalled; the network is not blamed.
    HostStall,
    /// Every egress is dead.
    TotalIsolation,
    /// Suspicion that evidence did not bear out.
    None,
}

impl Verdict {
    /// A short stable name for metrics and for the pager's `class`.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::LocalLink { .. } => "local_link",
            Self::Gateway { .. } => "gateway",
            Self::UpstreamAs { .. } => "upstream_as",
            Self::RemoteAs { .. } => "remote_as",
            Self::Prefix { .. } => "prefix",
            Self::SinglePeer { .. } => "single_peer",
            Self::ReturnPath { .. } => "return_path",
            Self::HostStall => "host_stall",
            Self::TotalIsolation => "total_isolation",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalLink { egress } => write!(f, "local link of {egress} is down"),
            Self::Gateway { egress } => write!(f, "gateway of {egress} is dead"),
            Self::UpstreamAs {
                egress,
                asn: Some(asn),
            } => {
                write!(f, "upstream {asn} behind {egress} is dark")
            }
            Self::UpstreamAs { egress, asn: None } => {
                write!(f, "the upstream behind {egress} is dark")
            }
            Self::RemoteAs { asn } => write!(f, "remote {asn} is unreachable"),
            Self::Prefix { prefix } => write!(f, "prefix {prefix} is unreachable"),
            Self::SinglePeer { peer } => write!(f, "peer {peer} is unreachable"),
            Self::ReturnPath {
                egress: Some(egress),
            } => {
                write!(f, "return path through {egress} is dead")
            }
            Self::ReturnPath { egress: None } => f.write_str("return path is dead"),
            Self::HostStall => f.write_str("this host was stalled"),
            Self::TotalIsolation => f.write_str("every egress is dead"),
            Self::None => f.write_str("no fault found"),
        }
    }
}

/// Where a piece of evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceSource {
    /// The kernel's TCP events.
    Tcp,
    /// Active probes.
    Probe,
    /// BGP.
    Bgp,
    /// This host: links, neighbours, timers.
    Host,
}

/// One piece of evidence for a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was observed.
    pub at: Timestamp,
    /// By what.
    pub source: EvidenceSource,
    /// One line for people: "12 of 40 connections overdue in 5 of 8 prefixes".
    pub text: String,
    /// Log-likelihood weight in nats, where it took part in a sum.
    pub weight: Option<f64>,
}

/// An incident's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// Passive evidence only.
    Suspected,
    /// A verdict was reached.
    Confirmed,
    /// Routes are installed, their effect is being judged.
    Verifying,
    /// Routes are installed and flows progress.
    Mitigated,
    /// The path works again.
    Resolved,
}

/// An incident as `status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name.
    pub id: IncidentId,
    /// Its stage.
    pub state: IncidentState,
    /// When it began, as far as evidence tells (the oldest byte lost).
    pub onset: Timestamp,
    /// When suspicion arose.
    pub suspected_at: Timestamp,
    /// When the first verdict was reached.
    pub confirmed_at: Option<Timestamp>,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// The verdict now.
    pub verdict: Option<Verdict>,
    /// Which kind of evidence came first.
    pub first_evidence: EvidenceSource,
    /// The evidence, oldest first, bounded.
    pub evidence: Vec<Evidence>,
    /// Peers with failing connections.
    pub affected: Vec<PeerKey>,
    /// Their covering prefixes.
    pub prefixes: Vec<Prefix>,
    /// What BGP says; its text is empty while there is no verdict.
    #[serde(default)]
    pub bgp: BgpSummary,
    /// The plan in force.
    pub plan: Option<PlanId>,
    /// From onset to verdict.
    pub time_to_verdict: Option<Duration>,
}
