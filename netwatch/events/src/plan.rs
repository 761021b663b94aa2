//! Changes to the kernel's routes: asked for by the planner, carried out under a lease.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{EgressName, IncidentId, Prefix};

/// A plan's number, unique within a run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub u64);

/// Whether routes may really be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanMode {
    /// Only say what would be done.
    #[default]
    Shadow,
    /// Do it.
    Act,
}

/// A route to create. It never replaces one that exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Destination.
    pub prefix: Prefix,
    /// The egress that packets shall take.
    pub egress: EgressName,
    /// Its interface.
    pub interface: String,
    /// Its gateway.
    pub gateway: IpAddr,
    /// Preferred source (`RTA_PREFSRC`): the address that the flows use already.
    pub source: IpAddr,
    /// Metric (`RTA_PRIORITY`).
    pub metric: u32,
    /// Routing table.
    pub table: u32,
}

/// A set of routes that are installed and reverted together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which plan.
    pub id: PlanId,
    /// For which incident.
    pub incident: IncidentId,
    /// Act or only say.
    pub mode: PlanMode,
    /// The watchdog removes the routes when the lease is not renewed for so long.
    pub lease: Duration,
    /// The routes.
    pub routes: Vec<RouteSpec>,
    /// Why this is the smallest change that wins, in words.
    pub rationale: String,
}

/// Why routes were taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevertReason {
    /// The primary path works again.
    Healed,
    /// Flows that transmitted since the change did not progress.
    NotProgressing,
    /// Flow-source probes through the backup fail: the way back is dead.
    ReturnPath,
    /// The backup itself failed.
    BackupFailed,
    /// A person asked.
    Operator,
    /// The kill switch is set.
    KillSwitch,
    /// The daemon stops.
    Stopping,
    /// The lease was not renewed in time (the watchdog's doing).
    LeaseExpired,
    /// A route of the plan could not be installed; the others are taken back.
    InstallFailed,
    /// Left over from an earlier run.
    Sweep,
}
