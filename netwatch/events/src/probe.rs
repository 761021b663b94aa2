//! Active probes and what came of them.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{EgressName, Timestamp};

/// What a probe is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "address")]
pub enum ProbeTarget {
    /// The egress's own gateway router.
    Gateway(IpAddr),
    /// A configured address in the wide network that is known to answer.
    Anchor(IpAddr),
    /// A peer under suspicion.
    Suspect(IpAddr),
}

impl ProbeTarget {
    /// The address that the probe is sent to.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match *self {
            Self::Gateway(a) | Self::Anchor(a) | Self::Suspect(a) => a,
        }
    }
}

/// Which of this host's addresses a probe carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeSource {
    /// The egress interface's own address: proves the way out, nothing of the flows' way back.
    Link,
    /// The address that the validator's connections use: proves both ways for them.
    Flow,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum ProbeOutcome {
    /// An answer came.
    Reply {
        /// Round-trip time.
        rtt: Duration,
    },
    /// None came within the target's own deadline (learned from its round-trip times).
    Lost,
    /// The kernel or a router refused (an errno, or the errno that an ICMP error stands for).
    Refused {
        /// The errno.
        errno: i32,
    },
}

/// One probe, finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// When it left.
    pub sent_at: Timestamp,
    /// Through which egress.
    pub egress: EgressName,
    /// At what.
    pub target: ProbeTarget,
    /// With which kind of source address.
    pub source: ProbeSource,
    /// That address.
    pub source_address: IpAddr,
    /// What came of it.
    pub outcome: ProbeOutcome,
}
