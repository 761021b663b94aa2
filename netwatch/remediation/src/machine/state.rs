//! What the planner keeps of incidents and plans, and its fixed limits.

use std::net::IpAddr;
use std::time::Duration;

use events::{EgressName, Incident, IncidentId, Plan, PlanId, Prefix, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use super::status::*;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// Cases kept; the oldest without a plan in force goes first.
pub(super) const MAX_CASES: usize = 64;
/// A case may be extended as more prefixes turn out to be affected or proven.
pub(super) const MAX_PLANS_PER_CASE: usize = 3;
/// Flow-source probes through the backup over so long, all lost, mean that it failed.
pub(super) const BACKUP_WINDOW: Duration = Duration::from_millis(1_000);
/// Fewer lost probes in that window mean nothing.
pub(super) const BACKUP_LOSSES: usize = 5;
/// An adapter that does not answer for so long is asked again.
pub(super) const ADAPTER_PATIENCE: Duration = Duration::from_secs(5);
/// Most targets of one request for probes.
pub(super) const MAX_PROBED: usize = 16;
/// What had no proof is looked at again so often, and so many times.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(500);
pub(super) const RETRIES: u32 = 120;
/// After so many, an open incident is looked at this often: a budget or another plan may make room.
pub(super) const RETRY_LATER: Duration = Duration::from_secs(5);
/// How often a waiting case is looked at. Proof is not known later than this.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long probe results and silent connections are remembered.
pub(super) const MEMORY: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Active {
    pub(super) plan: Plan,
    pub(super) stage: Stage,
    /// The incidents that it serves; the newest last.
    pub(super) incidents: Vec<IncidentId>,
    pub(super) verdict: Verdict,
    /// Connections that were overdue when the routes came.
    pub(super) overdue_at_install: usize,
    pub(super) renewed: Timestamp,
    pub(super) next_renewal: Timestamp,
    /// The primary healed: when the routes may go.
    pub(super) heal_at: Option<Timestamp>,
}

impl Active {
    pub fn prefixes(&self) -> Vec<Prefix> {
        self.plan.routes.iter().map(|route| route.prefix).collect()
    }

    /// The ways that its routes take: egress and source.
    pub fn ways(&self) -> Vec<(EgressName, IpAddr)> {
        let mut ways: Vec<_> = self
            .plan
            .routes
            .iter()
            .map(|route| (route.egress.clone(), route.source))
            .collect();
        ways.sort();
        ways.dedup();
        ways
    }

    pub const fn reverting(&self) -> bool {
        matches!(self.stage, Stage::Reverting { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub(super) enum CaseStage {
    Waiting {
        since: Timestamp,
        /// When facts were last looked at.
        looked: Timestamp,
    },
    Acting,
    Shadow,
    Closed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) incident: Incident,
    pub(super) stage: CaseStage,
    pub(super) plans: Vec<PlanId>,
    /// Its action is counted in the budget.
    pub(super) charged: bool,
    /// Routes were taken back for a reason that forbids another try.
    pub(super) blocked: bool,
    pub(super) status: Option<RemediationStatus>,
    /// When to look again at what had no proof.
    pub(super) retry: Option<Timestamp>,
    pub(super) retries: u32,
    /// When the verdict took its present form.
    pub(super) decided: Timestamp,
}
