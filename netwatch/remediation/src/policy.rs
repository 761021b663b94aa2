use std::net::IpAddr;
use std::time::Duration;

use events::{Asn, EgressName, PlanMode, Prefix};
use serde::{Deserialize, Serialize};

/// An uplink, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Its name.
    pub name: EgressName,
    /// Its interface.
    pub interface: String,
    /// Its gateways, at most one per address family.
    pub gateways: Vec<IpAddr>,
}

impl Egress {
    /// The gateway of an address family.
    #[must_use]
    pub fn gateway(&self, ipv6: bool) -> Option<IpAddr> {
        self.gateways
            .iter()
            .copied()
            .find(|gateway| gateway.is_ipv6() == ipv6)
    }
}

/// A configured address in the wide network that answers probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The address.
    pub address: IpAddr,
    /// The AS that it is in, where configured.
    pub asn: Option<Asn>,
}

/// How often routes may be changed. Beyond it the planner only advises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Incidents of one verdict class that may be acted on within [`Self::class_window`].
    pub per_class: usize,
    /// See [`Self::per_class`].
    pub class_window: Duration,
    /// Incidents of all classes that may be acted on within an hour.
    pub per_hour: usize,
}

/// What the planner may do. [`Policy::default`] permits nothing: shadow mode and no prefix allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Act, or only say what would be done.
    pub mode: PlanMode,
    /// A route must lie inside one of these. Empty: nothing may be rerouted.
    pub allowed: Vec<Prefix>,
    /// No route may overlap one of these (management, pager). Gateways and flow sources are
    /// protected without being listed.
    pub protected: Vec<Prefix>,
    /// Most routes of one plan, and of all plans in force together.
    pub max_routes: usize,
    /// How long routes stay without renewal.
    pub lease: Duration,
    /// Probes are sent. Without them no backup is ever proven, and nothing is waited for.
    pub probes: bool,
    /// The addresses that the validator's connections use.
    pub flow_sources: Vec<IpAddr>,
    /// The uplinks in order of preference, the primary first.
    pub egresses: Vec<Egress>,
    /// The anchors that are probed through every egress.
    pub anchors: Vec<Anchor>,
    /// The table for routes where the FIB has none to win against.
    pub table: u32,
    /// The metric of a new prefix, and the upper bound of a metric that must beat another.
    pub metric: u32,
    /// How often to act.
    pub budget: Budget,
    /// How long after the verdict the plan waits for the proof of every affected prefix, once one is proven.
    pub settle: Duration,
    /// How long after the verdict the plan waits for any proof of a backup.
    pub proof_wait: Duration,
    /// How long after the installation flows are judged at the latest.
    pub post_check: Duration,
    /// A transmission younger than this says nothing yet: its acknowledgement is on the way.
    pub in_flight: Duration,
    /// Flows that must have transmitted for flows to decide; with fewer, probes do.
    pub min_transmitted: usize,
    /// How long a route is kept after the primary healed; doubled for each such revert within an hour.
    pub hold_down: Duration,
    /// The longest that it is kept.
    #[serde(default = "hold_down_max")]
    pub hold_down_max: Duration,
    /// Once routes are in, backed-off connections are made to retransmit at once (RFC 6069).
    #[serde(default)]
    pub nudge: bool,
}

const fn hold_down_max() -> Duration {
    Duration::from_secs(600)
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: PlanMode::Shadow,
            allowed: Vec::new(),
            protected: Vec::new(),
            max_routes: 128,
            lease: Duration::from_secs(30),
            probes: true,
            flow_sources: Vec::new(),
            egresses: Vec::new(),
            anchors: Vec::new(),
            table: 254,
            metric: 50,
            budget: Budget {
                per_class: 1,
                class_window: Duration::from_secs(300),
                per_hour: 3,
            },
            settle: Duration::from_millis(100),
            proof_wait: Duration::from_millis(1_000),
            post_check: Duration::from_millis(1_500),
            in_flight: Duration::from_millis(300),
            min_transmitted: 3,
            hold_down: Duration::from_secs(2),
            hold_down_max: hold_down_max(),
            nudge: false,
        }
    }
}

impl Policy {
    /// The egress of a name.
    #[must_use]
    pub fn egress(&self, name: &EgressName) -> Option<&Egress> {
        self.egresses.iter().find(|egress| egress.name == *name)
    }
}
