//! Incidents and verdicts.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Asn, BgpSummary, BlockOperation, EgressName, PeerKey, PlanId, Prefix, Timestamp};

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
    /// One address family is dead through this egress while the other works.
    AddressFamily {
        /// Which egress.
        egress: EgressName,
        /// The dead family is IPv6, else IPv4.
        ipv6: bool,
    },
    /// Packets out through this egress are lost; what the peers send still comes in.
    EgressOnly {
        /// Which egress.
        egress: EgressName,
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
    /// This host was stalled; the network is not blamed. What stalled it is [`Incident::cause`].
    HostStall,
    /// Round-trip times left their baselines; nothing is lost.
    Latency {
        /// Whose.
        scope: LatencyScope,
        /// Why, as far as the evidence tells.
        cause: LatencyCause,
    },
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
            Self::AddressFamily { .. } => "address_family",
            Self::EgressOnly { .. } => "egress_only",
            Self::RemoteAs { .. } => "remote_as",
            Self::Prefix { .. } => "prefix",
            Self::SinglePeer { .. } => "single_peer",
            Self::ReturnPath { .. } => "return_path",
            Self::HostStall => "host_stall",
            Self::Latency { .. } => "latency",
            Self::TotalIsolation => "total_isolation",
            Self::None => "none",
        }
    }

    /// The egress that the verdict says is broken, if it is about one: what a way around avoids.
    #[must_use]
    pub const fn broken_egress(&self) -> Option<&EgressName> {
        match self {
            Self::LocalLink { egress }
            | Self::Gateway { egress }
            | Self::UpstreamAs { egress, .. }
            | Self::AddressFamily { egress, .. }
            | Self::EgressOnly { egress } => Some(egress),
            Self::RemoteAs { .. }
            | Self::Prefix { .. }
            | Self::SinglePeer { .. }
            | Self::ReturnPath { .. }
            | Self::HostStall
            | Self::Latency { .. }
            | Self::TotalIsolation
            | Self::None => None,
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
            Self::AddressFamily { egress, ipv6 } => {
                let family = if *ipv6 { "IPv6" } else { "IPv4" };
                write!(
                    f,
                    "{family} through {egress} is dead, the other family works"
                )
            }
            Self::EgressOnly { egress } => {
                write!(f, "the way out through {egress} is dead, the way in works")
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
            Self::Latency { scope, cause } => match cause {
                LatencyCause::Unknown => write!(f, "round-trip times of {scope} rose"),
                cause => write!(f, "round-trip times of {scope} rose: {cause}"),
            },
            Self::TotalIsolation => f.write_str("every egress is dead"),
            Self::None => f.write_str("no fault found"),
        }
    }
}

/// Whose round-trip times rose together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum LatencyScope {
    /// One peer's.
    Peer {
        /// Which.
        peer: PeerKey,
    },
    /// Those of one prefix.
    Prefix {
        /// Which.
        prefix: Prefix,
    },
    /// Those behind one AS.
    As {
        /// Which.
        asn: Asn,
    },
    /// Those through one egress.
    Egress {
        /// Which.
        egress: EgressName,
    },
    /// All, through whatever egress.
    All,
}

impl fmt::Display for LatencyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer { peer } => write!(f, "peer {peer}"),
            Self::Prefix { prefix } => write!(f, "the peers in {prefix}"),
            Self::As { asn } => write!(f, "the peers behind {asn}"),
            Self::Egress { egress } => write!(f, "all peers through {egress}"),
            Self::All => f.write_str("all peers"),
        }
    }
}

/// Why round-trip times rose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyCause {
    /// The routers tell of another path: the new time is the new baseline.
    PathChange,
    /// A queue at our own uplink (bufferbloat): everything through it waits.
    OwnUplink,
    /// This host answers late.
    Host,
    /// The evidence does not tell.
    Unknown,
}

impl fmt::Display for LatencyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PathChange => "the BGP path changed",
            Self::OwnUplink => "a queue at our own uplink (bufferbloat)",
            Self::Host => "this host is slow",
            Self::Unknown => "the cause is not known",
        })
    }
}

/// What stalled this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum HostCause {
    /// A disk took long.
    Disk {
        /// The disk, such as `nvme0n1`.
        device: String,
        /// What it did.
        operation: BlockOperation,
        /// From the request's issue, or its insertion where that is known, to its completion.
        took: Duration,
    },
    /// A watched thread had to wait for a CPU.
    Cpu {
        /// The thread that waited.
        thread: String,
        /// For how long.
        waited: Duration,
        /// The thread that had the CPU meanwhile, where the kernel told.
        by: Option<String>,
    },
    /// The whole machine, or this process, did not run.
    Paused {
        /// For how long.
        lag: Duration,
    },
}

impl fmt::Display for HostCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk {
                device,
                operation,
                took,
            } => write!(
                f,
                "disk {device} took {} ms for a {operation}",
                took.as_millis()
            ),
            Self::Cpu {
                thread,
                waited,
                by: Some(by),
            } => write!(
                f,
                "the CPU was taken from {thread} by {by} for {} ms",
                waited.as_millis()
            ),
            Self::Cpu { thread, waited, .. } => {
                write!(f, "{thread} waited {} ms for a CPU", waited.as_millis())
            }
            Self::Paused { lag } => {
                write!(f, "this machine did not run for {} ms", lag.as_millis())
            }
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
    /// By then the break had surely happened: only what was probed since proves a way around it.
    /// `None`: by the onset.
    #[serde(default)]
    pub dark_by: Option<Timestamp>,
    /// What stalled this host, where the verdict is that.
    #[serde(default)]
    pub cause: Option<HostCause>,
    /// Other incidents that overlap in time or cause, the oldest first.
    #[serde(default)]
    pub related: Vec<IncidentId>,
}

impl Incident {
    /// Probes sent since then prove a way around the break.
    #[must_use]
    pub fn proof_from(&self) -> Timestamp {
        self.dark_by.map_or(self.onset, |at| at.max(self.onset))
    }
}
