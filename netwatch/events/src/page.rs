//! What a person is woken with.

use serde::{Deserialize, Serialize};

use crate::{Asn, IncidentId, PeerKey, Prefix, Timestamp};

/// PagerDuty's `event_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageAction {
    /// Open the alert, or add to it.
    Trigger,
    /// Close it.
    Resolve,
}

/// PagerDuty's `severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Severity {
    Info,
    Warning,
    Error,
    Critical,
}

/// A page to send. Its `dedup_key` is the incident's name on every try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// For which incident.
    pub incident: IncidentId,
    /// Trigger or resolve.
    pub action: PageAction,
    /// How bad.
    pub severity: Severity,
    /// At most 1,024 characters.
    pub summary: String,
    /// The part of the system: an egress, an AS, a peer.
    pub component: String,
    /// The verdict's class.
    pub class: String,
    /// When the incident began.
    pub onset: Timestamp,
    /// When the page was asked for.
    pub at: Timestamp,
    /// The rest of the story.
    pub details: PageDetails,
}

/// What the page says beyond its summary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PageDetails {
    /// What broke, in words.
    pub what_broke: String,
    /// For whom: how many peers, in which prefixes.
    pub affected_peers: Vec<PeerKey>,
    /// Their prefixes.
    pub affected_prefixes: Vec<Prefix>,
    /// What BGP says.
    pub bgp: BgpSummary,
    /// What was done: "installed, verifying", "verified", "reverted", "shadow: would install", "nothing: ...".
    pub remediation: String,
    /// The evidence, one line each, with times since the onset.
    pub evidence: Vec<String>,
}

/// What the routers say about an incident.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BgpSummary {
    /// In words: "no change so far", "12 routes withdrawn 2.0 s after the onset", "session stale".
    pub text: String,
    /// The AS that the changes point to.
    pub culprit: Option<Asn>,
    /// Routes withdrawn since the onset (and shortly before it).
    pub withdrawn: usize,
    /// Routes whose path or next hop changed.
    pub changed: usize,
}
