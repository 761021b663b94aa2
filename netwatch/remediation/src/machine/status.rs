//! What the planner says.

use events::{Effect, Entry, IncidentId, Plan, PlanMode, RevertReason, Timestamp};
use serde::{Deserialize, Serialize};

/// What the planner wants done or known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "output")]
pub enum Output {
    /// Install, revert, renew a lease or probe.
    Effect(Effect),
    /// What the page says of the remediation now.
    Status {
        /// Of which incident.
        incident: IncidentId,
        /// What.
        status: RemediationStatus,
    },
    /// A line of the timeline. A plan's line comes before its installation.
    Journal(Entry),
}

/// How an incident's remediation stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "text")]
pub enum RemediationStatus {
    /// Shadow mode: what would have been installed.
    Planned(String),
    /// The kernel was asked.
    Installing,
    /// The kernel has the routes; flows are being judged.
    InstalledVerifying,
    /// Flows, or probes from their source, progress over the routes.
    Verified,
    /// The routes are gone.
    Reverted(RevertReason),
    /// Action was wanted and not permitted.
    Refused(String),
    /// The verdict asks for no route.
    NothingToDo(String),
}

impl RemediationStatus {
    /// The outcome will not change by itself within the page's patience.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !matches!(self, Self::Installing | Self::InstalledVerifying)
    }
}

impl std::fmt::Display for RemediationStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Planned(text) => write!(f, "shadow: would install {text}"),
            Self::Installing => f.write_str("installing"),
            Self::InstalledVerifying => f.write_str("installed, verifying"),
            Self::Verified => f.write_str("verified"),
            Self::Reverted(reason) => write!(f, "reverted: {}", why(*reason)),
            Self::Refused(text) => write!(f, "refused: {text}"),
            Self::NothingToDo(text) => write!(f, "nothing: {text}"),
        }
    }
}

/// A reason in words.
pub(super) fn why(reason: RevertReason) -> &'static str {
    match reason {
        RevertReason::Healed => "the primary path works again",
        RevertReason::NotProgressing => "flows did not progress over the backup",
        RevertReason::ReturnPath => "return path: answers to the flows' source do not come back",
        RevertReason::BackupFailed => "the backup failed",
        RevertReason::Operator => "an operator asked",
        RevertReason::KillSwitch => "the kill switch is set",
        RevertReason::Stopping => "the daemon stops",
        RevertReason::LeaseExpired => "the lease expired",
        RevertReason::InstallFailed => "a route could not be installed or kept",
        RevertReason::Sweep => "left over from an earlier run",
    }
}

/// A plan's stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
#[allow(missing_docs)]
pub enum Stage {
    /// The kernel was asked.
    Installing { since: Timestamp },
    /// Installed; flows are being judged.
    Verifying { since: Timestamp },
    /// Flows progress; the lease is renewed.
    Verified { since: Timestamp },
    /// The routes are to go.
    Reverting {
        reason: RevertReason,
        asked: Timestamp,
    },
}

/// A plan, for `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// The plan with its routes.
    pub plan: Plan,
    /// Its stage.
    pub stage: Stage,
    /// When its lease was last renewed.
    pub renewed: Timestamp,
    /// When its routes go because the primary healed.
    pub heal_at: Option<Timestamp>,
}

/// An incident's remediation, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseView {
    /// Which incident.
    pub incident: IncidentId,
    /// How it stands.
    pub status: Option<RemediationStatus>,
}

/// The planner's state, for `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemediatorView {
    /// Shadow or act.
    pub mode: PlanMode,
    /// The kill switch is set.
    pub kill_switch: bool,
    /// Nothing new is installed during a maintenance window: its reason.
    pub maintenance: Option<String>,
    /// Incidents acted on within the last hour, and how many may be.
    pub acted_last_hour: (usize, usize),
    /// Plans in force or being taken back.
    pub plans: Vec<PlanView>,
    /// Open incidents.
    pub cases: Vec<CaseView>,
}
