//! What the correlator concludes: the planner's and the pager's input.

use serde::{Deserialize, Serialize};

use crate::{BgpSummary, Incident, IncidentId, Timestamp};

/// A step in an incident's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "conclusion")]
pub enum Conclusion {
    /// Passive evidence passed the threshold; probes are under way.
    Suspected(Incident),
    /// A verdict was reached, or replaced by a better one (`Incident::verdict` is set).
    Confirmed {
        /// The incident with its evidence.
        incident: Incident,
        /// What BGP says so far.
        bgp: BgpSummary,
    },
    /// Evidence came late: the verdict stands, the story is better.
    Updated {
        /// The incident with its evidence.
        incident: Incident,
        /// What BGP says so far.
        bgp: BgpSummary,
    },
    /// The broken path works again (or never was broken: verdict `None`).
    Healed {
        /// Which incident.
        incident: IncidentId,
        /// Since when.
        at: Timestamp,
    },
}
