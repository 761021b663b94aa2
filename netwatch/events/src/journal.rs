//! Entries of the incident journal: the timeline.

use serde::{Deserialize, Serialize};

use crate::{Evidence, IncidentId, PlanId, RevertReason, RouteSpec, Timestamp, Verdict};

/// Who did or saw something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Actor {
    Kernel,
    Tracker,
    Bgp,
    Prober,
    Host,
    Correlator,
    Planner,
    Routes,
    Watchdog,
    Pager,
    Operator,
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose timeline.
    pub incident: IncidentId,
    /// When it happened.
    pub at: Timestamp,
    /// When the daemon learned of it, where that is later (BGP: the time of receipt).
    pub received_at: Option<Timestamp>,
    /// Who.
    pub actor: Actor,
    /// What.
    pub kind: EntryKind,
    /// One line for people.
    pub text: String,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
}

/// What a line of the timeline tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
#[allow(missing_docs)]
pub enum EntryKind {
    /// The estimate of when the break happened.
    Onset,
    /// The first piece of evidence.
    FirstEvidence,
    /// Passive evidence passed the threshold.
    Suspected,
    /// A verdict, or a better one.
    Verdict { verdict: Verdict },
    /// A change of a BGP table or session that belongs to the incident.
    BgpEvidence,
    /// The plan, before it is carried out (write-ahead).
    Planned {
        plan: PlanId,
        routes: Vec<RouteSpec>,
    },
    /// The planner refused to act.
    Refused { reason: String },
    /// The kernel acknowledged the routes.
    Installed { plan: PlanId },
    /// The routes could not be installed.
    InstallFailed { plan: PlanId, error: String },
    /// Flows progress over the new routes.
    Verified { plan: PlanId },
    /// The routes were taken back.
    Reverted { plan: PlanId, reason: RevertReason },
    /// A page was handed to the outbox.
    PageQueued { summary: String },
    /// The pager's API received the request's last byte.
    PageSent {
        egress: Option<String>,
        attempt: u32,
    },
    /// The pager accepted it.
    PageAccepted {
        egress: Option<String>,
        attempt: u32,
    },
    /// An attempt failed.
    PageFailed {
        error: String,
        attempt: u32,
        permanent: bool,
    },
    /// The path works again.
    Resolved,
    /// Anything else worth a line.
    Note,
}
