//! The planner's state machine: one case per incident, one record per plan in force.
//!
//! ```text
//! case:  Waiting ─▶ Acting ─▶ Closed          plan:  Installing ─▶ Verifying ─▶ Verified
//!           │  └──▶ Shadow                                │             │           │
//!           └─────▶ Closed (refused, nothing to do)       └──────▶ Reverting ◀──────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{
    Actor, BgpSignal, Conclusion, Effect, EgressName, Entry, EntryKind, FibChange, HostSignal,
    Incident, IncidentId, OperatorCommand, Outcome, Plan, PlanId, PlanMode, Prefix, ProbeRequest,
    ProbeResult, ProbeSource, RevertReason, RouteSpec, Signal, SignalKind, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::flows::Flows;
use crate::plan::{Draft, draft_for};
use crate::{Facts, Policy, Proof, check};

const HOUR: Duration = Duration::from_secs(3600);
/// Cases kept; the oldest without a plan in force goes first.
const MAX_CASES: usize = 64;
/// A case may be extended as more prefixes turn out to be affected or proven.
const MAX_PLANS_PER_CASE: usize = 3;
/// The longest that a healed plan's routes are kept against flapping.
const MAX_HOLD_DOWN: Duration = Duration::from_secs(600);
/// Flow-source probes through the backup over so long, all lost, mean that it failed.
const BACKUP_WINDOW: Duration = Duration::from_millis(1_000);
/// Fewer lost probes in that window mean nothing.
const BACKUP_LOSSES: usize = 5;
/// An adapter that does not answer for so long is asked again.
const ADAPTER_PATIENCE: Duration = Duration::from_secs(5);
/// Most targets of one request for probes.
const MAX_PROBED: usize = 16;
/// What had no proof is looked at again so often, and so many times.
const RETRY_EVERY: Duration = Duration::from_millis(500);
const RETRIES: u8 = 120;
/// How long probe results and silent connections are remembered.
const MEMORY: Duration = Duration::from_secs(120);

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
fn why(reason: RevertReason) -> &'static str {
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Active {
    plan: Plan,
    stage: Stage,
    /// The incidents that it serves; the newest last.
    incidents: Vec<IncidentId>,
    verdict: Verdict,
    /// Connections that were overdue when the routes came.
    overdue_at_install: usize,
    renewed: Timestamp,
    next_renewal: Timestamp,
    /// The primary healed: when the routes may go.
    heal_at: Option<Timestamp>,
}

impl Active {
    fn prefixes(&self) -> Vec<Prefix> {
        self.plan.routes.iter().map(|route| route.prefix).collect()
    }

    /// The ways that its routes take: egress and source.
    fn ways(&self) -> Vec<(EgressName, IpAddr)> {
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

    const fn reverting(&self) -> bool {
        matches!(self.stage, Stage::Reverting { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
enum CaseStage {
    Waiting { since: Timestamp },
    Acting,
    Shadow,
    Closed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Case {
    incident: Incident,
    stage: CaseStage,
    plans: Vec<PlanId>,
    /// Its action is counted in the budget.
    charged: bool,
    /// Routes were taken back for a reason that forbids another try.
    blocked: bool,
    status: Option<RemediationStatus>,
    /// When to look again at what had no proof.
    retry: Option<Timestamp>,
    retries: u8,
}

/// The planner. See the crate's documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remediator {
    policy: Policy,
    facts: Facts,
    flows: Flows,
    cases: BTreeMap<IncidentId, Case>,
    plans: BTreeMap<PlanId, Active>,
    next_plan: u64,
    acted: VecDeque<(Timestamp, String)>,
    healed: VecDeque<Timestamp>,
    stopping: bool,
    swept_at: Timestamp,
    /// When [`Self::handle_timeout`] was last called.
    handled: Timestamp,
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
    /// Incidents acted on within the last hour, and how many may be.
    pub acted_last_hour: (usize, usize),
    /// Plans in force or being taken back.
    pub plans: Vec<PlanView>,
    /// Open incidents.
    pub cases: Vec<CaseView>,
}

impl Remediator {
    /// A planner without facts.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            facts: Facts::default(),
            flows: Flows::default(),
            cases: BTreeMap::new(),
            plans: BTreeMap::new(),
            next_plan: 1,
            acted: VecDeque::new(),
            healed: VecDeque::new(),
            stopping: false,
            swept_at: Timestamp::ZERO,
            handled: Timestamp::ZERO,
        }
    }

    /// The correlator concluded something.
    pub fn conclusion(&mut self, at: Timestamp, conclusion: &Conclusion, out: &mut Vec<Output>) {
        match conclusion {
            Conclusion::Suspected(_) => {}
            Conclusion::Confirmed { incident, .. } | Conclusion::Updated { incident, .. } => {
                self.verdict(at, incident, out);
            }
            Conclusion::Healed { incident, .. } => self.heal(at, incident, out),
        }
    }

    /// The tracker concluded something about a peer.
    pub fn signal(&mut self, at: Timestamp, signal: &Signal, out: &mut Vec<Output>) {
        self.flows.signal(signal);
        if signal.kind == SignalKind::PeerDown {
            self.facts.forget(signal.peer);
        }
        self.judge(at, out);
    }

    /// A probe ended.
    pub fn probe(&mut self, at: Timestamp, probe: &ProbeResult, out: &mut Vec<Output>) {
        self.facts.probe(probe);
        self.consider_waiting(at, out);
        self.judge(at, out);
    }

    /// The kernel's way to a peer changed.
    pub fn fib(&mut self, at: Timestamp, change: &FibChange, out: &mut Vec<Output>) {
        self.facts.fib(change);
        self.consider_waiting(at, out);
    }

    /// A router told something.
    pub fn bgp(&mut self, _at: Timestamp, signal: &BgpSignal, _out: &mut Vec<Output>) {
        self.facts.bgp(signal);
    }

    /// This host's links changed.
    pub fn host(&mut self, at: Timestamp, signal: &HostSignal, out: &mut Vec<Output>) {
        self.facts.host(signal);
        self.judge(at, out);
    }

    /// An effect was carried out, or not.
    pub fn outcome(&mut self, at: Timestamp, outcome: &Outcome, out: &mut Vec<Output>) {
        match outcome {
            Outcome::Installed { plan } => self.installed(at, *plan, out),
            Outcome::InstallFailed { plan, error } => {
                let Some(active) = self.plans.remove(plan) else {
                    return;
                };
                for incident in &active.incidents {
                    self.journal(
                        at,
                        incident,
                        EntryKind::InstallFailed {
                            plan: *plan,
                            error: error.clone(),
                        },
                        format!("plan {} could not be installed: {error}", plan.0),
                        out,
                    );
                    self.close(incident, true);
                    self.say(incident, RemediationStatus::Refused(error.clone()), out);
                }
            }
            Outcome::Reverted { plan, reason } => self.reverted(at, *plan, *reason, out),
            Outcome::RouteLost {
                plan,
                route,
                restored,
            } => {
                let Some(incident) = self
                    .plans
                    .get(plan)
                    .and_then(|a| a.incidents.last())
                    .cloned()
                else {
                    return;
                };
                let how = if *restored {
                    "put back"
                } else {
                    "not put back"
                };
                self.journal(
                    at,
                    &incident,
                    EntryKind::Note,
                    format!("route {route} was removed by another program, {how}"),
                    out,
                );
                if !restored {
                    self.revert(at, *plan, RevertReason::InstallFailed, out);
                }
            }
            Outcome::PageSent { .. }
            | Outcome::PageAccepted { .. }
            | Outcome::PageFailed { .. } => {}
        }
    }

    /// A person or a tool said something.
    pub fn operator(&mut self, at: Timestamp, command: &OperatorCommand, out: &mut Vec<Output>) {
        match command {
            OperatorCommand::KillSwitch { engaged } => {
                self.facts.kill_switch = *engaged;
                if *engaged {
                    self.refuse_waiting(at, "the kill switch is set", out);
                    self.revert_all(at, RevertReason::KillSwitch, out);
                }
            }
            OperatorCommand::Rollback { plan: Some(plan) } => {
                self.revert(at, *plan, RevertReason::Operator, out);
            }
            OperatorCommand::Rollback { plan: None } => {
                self.refuse_waiting(at, "an operator asked for a rollback", out);
                for case in self.cases.values_mut() {
                    case.blocked = true;
                }
                self.revert_all(at, RevertReason::Operator, out);
            }
            OperatorCommand::Stop => {
                self.stopping = true;
                self.refuse_waiting(at, "the daemon stops", out);
                self.revert_all(at, RevertReason::Stopping, out);
            }
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        self.handled = at;
        self.consider_waiting(at, out);
        self.retry(at, out);
        self.judge(at, out);
        let due: Vec<PlanId> = self.plans.keys().copied().collect();
        for id in due {
            self.plan_timeout(at, id, out);
        }
        if at.since(self.swept_at) >= MEMORY {
            self.swept_at = at;
            self.facts.probes.forget(at, MEMORY);
            self.flows.forget(at, MEMORY);
        }
    }

    /// When [`Self::handle_timeout`] has something to do, if ever.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let cases = self.cases.values().filter_map(|case| match case.stage {
            CaseStage::Waiting { since } => Some(since + self.policy.settle),
            _ => None,
        });
        let retries = self.cases.values().filter_map(|case| case.retry);
        let late = self.cases.values().filter_map(|case| match case.stage {
            CaseStage::Waiting { since } => Some(since + self.policy.proof_wait),
            _ => None,
        });
        let plans = self.plans.values().flat_map(|active| {
            let stage = match active.stage {
                Stage::Installing { since } => since + ADAPTER_PATIENCE,
                Stage::Verifying { since } => since + self.policy.post_check,
                Stage::Verified { .. } => active.next_renewal,
                Stage::Reverting { asked, .. } => asked + ADAPTER_PATIENCE,
            };
            let early = match active.stage {
                Stage::Verifying { since } => Some(since + self.policy.post_check / 2),
                _ => None,
            };
            let heal = active.heal_at.filter(|_| !active.reverting());
            [Some(stage), early, heal].into_iter().flatten()
        });
        // What came due before the last call has been dealt with by it.
        cases
            .chain(late)
            .chain(retries)
            .chain(plans)
            .filter(|due| *due > self.handled)
            .min()
    }

    /// What `status` shows.
    #[must_use]
    pub fn status(&self) -> RemediatorView {
        RemediatorView {
            mode: self.policy.mode,
            kill_switch: self.facts.kill_switch,
            acted_last_hour: (self.acted.len(), self.policy.budget.per_hour),
            plans: self
                .plans
                .values()
                .map(|active| PlanView {
                    plan: active.plan.clone(),
                    stage: active.stage,
                    renewed: active.renewed,
                    heal_at: active.heal_at,
                })
                .collect(),
            cases: self
                .cases
                .values()
                .map(|case| CaseView {
                    incident: case.incident.id.clone(),
                    status: case.status.clone(),
                })
                .collect(),
        }
    }

    // --- from a verdict to a plan ---

    fn verdict(&mut self, at: Timestamp, incident: &Incident, out: &mut Vec<Output>) {
        let Some(verdict) = incident.verdict.clone() else {
            return;
        };
        let id = incident.id.clone();
        let known = self.cases.remove(&id);
        let changed = known
            .as_ref()
            .is_none_or(|case| case.incident.verdict.as_ref() != Some(&verdict));
        let mut case = known.unwrap_or_else(|| Case {
            incident: incident.clone(),
            stage: CaseStage::Closed,
            plans: Vec::new(),
            charged: false,
            blocked: false,
            status: None,
            retry: None,
            retries: 0,
        });
        case.incident = incident.clone();
        self.make_room();
        self.cases.insert(id.clone(), case);

        if let Some(reason) = forbids(&verdict) {
            let plans = self.serving(&id);
            // Everything dark: fail static, neither install nor take back.
            if verdict != Verdict::TotalIsolation {
                let reason = match verdict {
                    Verdict::ReturnPath { .. } => RevertReason::ReturnPath,
                    _ => RevertReason::Healed,
                };
                for plan in &plans {
                    self.revert(at, *plan, reason, out);
                }
            }
            if let Some(case) = self.cases.get_mut(&id)
                && case.stage != CaseStage::Acting
            {
                case.stage = CaseStage::Closed;
            }
            if changed && plans.is_empty() {
                self.say(&id, RemediationStatus::NothingToDo(reason.to_owned()), out);
            }
            return;
        }
        if self.adopt(at, &id, &verdict, out) {
            return;
        }
        let Some(case) = self.cases.get_mut(&id) else {
            return;
        };
        match case.stage {
            CaseStage::Waiting { .. } => {}
            CaseStage::Shadow if !changed => return,
            CaseStage::Acting | CaseStage::Closed | CaseStage::Shadow => {
                if case.blocked || case.plans.len() >= MAX_PLANS_PER_CASE || self.stopping {
                    return;
                }
                // An extension does not wait: what is not proven now comes with the next update.
                if case.stage != CaseStage::Acting {
                    case.stage = CaseStage::Waiting { since: at };
                }
            }
        }
        self.consider(at, &id, out);
    }

    /// A plan whose primary had healed, and broke again before the hold-down was over, serves the
    /// new incident too.
    fn adopt(
        &mut self,
        at: Timestamp,
        id: &IncidentId,
        verdict: &Verdict,
        out: &mut Vec<Output>,
    ) -> bool {
        let found = self.plans.iter_mut().find(|(_, active)| {
            active.heal_at.is_some()
                && !active.reverting()
                && broken(&active.verdict) == broken(verdict)
                && active.verdict.class() == verdict.class()
        });
        let Some((plan, active)) = found else {
            return false;
        };
        active.heal_at = None;
        if !active.incidents.contains(id) {
            active.incidents.push(id.clone());
        }
        let plan = *plan;
        let status = match active.stage {
            Stage::Installing { .. } => RemediationStatus::Installing,
            Stage::Verifying { .. } => RemediationStatus::InstalledVerifying,
            Stage::Verified { .. } | Stage::Reverting { .. } => RemediationStatus::Verified,
        };
        if let Some(case) = self.cases.get_mut(id) {
            case.stage = CaseStage::Acting;
            case.charged = true;
            if !case.plans.contains(&plan) {
                case.plans.push(plan);
            }
        }
        let text = format!("the routes of plan {} are still in: they stay", plan.0);
        self.journal(at, id, EntryKind::Note, text, out);
        self.say(id, status, out);
        true
    }

    fn consider_waiting(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        let waiting: Vec<IncidentId> = self
            .cases
            .iter()
            .filter(|(_, case)| matches!(case.stage, CaseStage::Waiting { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            self.consider(at, &id, out);
        }
    }

    /// Plans, waits, or gives up.
    fn consider(&mut self, at: Timestamp, id: &IncidentId, out: &mut Vec<Output>) {
        let Some(case) = self.cases.get(id) else {
            return;
        };
        let extension = case.stage == CaseStage::Acting;
        let since = match case.stage {
            CaseStage::Waiting { since } => since,
            _ => at,
        };
        let incident = case.incident.clone();
        let draft = self.draft(&incident);
        let undecided = draft.undecided(&incident.affected);
        let waited = at.since(since);
        if !draft.routes.is_empty() {
            if undecided && waited < self.policy.settle && !extension {
                self.ask_for_proof(at == since, &incident, &draft, out);
                return;
            }
            let may_improve = draft.may_improve(&incident.affected);
            self.propose(at, id, draft, out);
            self.look_again(at, id, may_improve);
            return;
        }
        let may_improve = draft.may_improve(&incident.affected);
        if extension {
            self.look_again(at, id, may_improve);
            return;
        }
        // A loss or two right after the onset may be the last of it.
        let patience = if undecided {
            self.policy.proof_wait
        } else {
            self.policy.settle
        };
        if may_improve && waited < patience {
            self.ask_for_proof(at == since, &incident, &draft, out);
            return;
        }
        match draft.why_nothing() {
            Some(reason) => {
                self.refuse(at, id, reason, out);
                self.look_again(at, id, may_improve);
            }
            None => {
                self.close(id, false);
                let text = "no watched peer's route leaves through what broke";
                self.say(id, RemediationStatus::NothingToDo(text.to_owned()), out);
            }
        }
    }

    fn draft(&self, incident: &Incident) -> Draft {
        let mut draft = draft_for(incident, &self.policy, &self.facts, &self.flows, true);
        self.drop_known(&mut draft);
        if draft.routes.len() > self.policy.max_routes {
            draft = draft_for(incident, &self.policy, &self.facts, &self.flows, false);
            self.drop_known(&mut draft);
        }
        draft
    }

    fn look_again(&mut self, at: Timestamp, id: &IncidentId, worthwhile: bool) {
        if let Some(case) = self.cases.get_mut(id) {
            let room = !case.blocked
                && case.plans.len() < MAX_PLANS_PER_CASE
                && case.retries < RETRIES
                && case.stage != CaseStage::Shadow;
            case.retry = (worthwhile && room).then_some(at + RETRY_EVERY);
        }
    }

    /// Proof of a backup may come after the refusal, or after a first plan without some prefixes.
    fn retry(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        let due: Vec<IncidentId> = self
            .cases
            .iter()
            .filter(|(_, case)| case.retry.is_some_and(|due| due <= at))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(case) = self.cases.get_mut(&id) else {
                continue;
            };
            case.retry = None;
            case.retries += 1;
            let permitted = case
                .incident
                .verdict
                .as_ref()
                .is_some_and(|verdict| forbids(verdict).is_none());
            if self.stopping || self.facts.kill_switch || case.blocked || !permitted {
                continue;
            }
            let incident = case.incident.clone();
            let draft = self.draft(&incident);
            let may_improve = draft.may_improve(&incident.affected);
            if !draft.routes.is_empty() {
                self.propose(at, &id, draft, out);
            }
            self.look_again(at, &id, may_improve);
        }
    }

    /// Routes that are in force already are not planned again.
    fn drop_known(&self, draft: &mut Draft) {
        draft.routes.retain(|route| {
            !self.plans.values().any(|active| {
                active
                    .plan
                    .routes
                    .iter()
                    .any(|ours| ours.prefix == route.prefix && ours.table == route.table)
            })
        });
    }

    fn propose(&mut self, at: Timestamp, id: &IncidentId, draft: Draft, out: &mut Vec<Output>) {
        let Some(case) = self.cases.get(id) else {
            return;
        };
        let Some(verdict) = case.incident.verdict.clone() else {
            return;
        };
        let (onset, charged, class) = (case.incident.onset, case.charged, verdict.class());
        let plan = Plan {
            id: PlanId(self.next_plan),
            incident: id.clone(),
            mode: self.policy.mode,
            lease: self.policy.lease,
            rationale: draft.rationale.into_iter().collect::<Vec<_>>().join("; "),
            routes: draft.routes,
        };
        let routes = describe(&plan.routes);
        let in_force: usize = self.plans.values().map(|a| a.plan.routes.len()).sum();
        let verdict_of_check = check(&plan, onset, &self.policy, &self.facts)
            .map_err(|refusal| refusal.to_string())
            .and_then(|()| {
                if in_force + plan.routes.len() > self.policy.max_routes {
                    Err(format!(
                        "{in_force} routes in force and {} more exceed failover.max_routes = {}",
                        plan.routes.len(),
                        self.policy.max_routes
                    ))
                } else {
                    Ok(())
                }
            })
            .and_then(|()| {
                if charged {
                    Ok(())
                } else {
                    self.afford(at, class)
                        .map_err(|spent| format!("{spent}; advice: install {routes}"))
                }
            });
        if let Err(reason) = verdict_of_check {
            self.refuse(at, id, reason, out);
            return;
        }
        self.next_plan += 1;
        if !charged {
            self.acted.push_back((at, class.to_owned()));
        }
        let shadow = plan.mode == PlanMode::Shadow;
        let text = if shadow {
            format!("shadow: would install {routes} ({})", plan.rationale)
        } else {
            format!("installing {routes} ({})", plan.rationale)
        };
        self.journal(
            at,
            id,
            EntryKind::Planned {
                plan: plan.id,
                routes: plan.routes.clone(),
            },
            text,
            out,
        );
        if let Some(case) = self.cases.get_mut(id) {
            case.charged = true;
            case.plans.push(plan.id);
            case.stage = if shadow {
                CaseStage::Shadow
            } else {
                CaseStage::Acting
            };
        }
        if shadow {
            self.say(id, RemediationStatus::Planned(routes), out);
            return;
        }
        self.plans.insert(
            plan.id,
            Active {
                stage: Stage::Installing { since: at },
                incidents: vec![id.clone()],
                verdict,
                overdue_at_install: 0,
                renewed: at,
                next_renewal: at + self.policy.lease / 3,
                heal_at: None,
                plan: plan.clone(),
            },
        );
        out.push(Output::Effect(Effect::Install(plan)));
        self.say(id, RemediationStatus::Installing, out);
    }

    /// Whether the budget has room for one more incident of a class.
    fn afford(&mut self, at: Timestamp, class: &str) -> Result<(), String> {
        while self
            .acted
            .front()
            .is_some_and(|(t, _)| at.since(*t) >= HOUR)
        {
            self.acted.pop_front();
        }
        let budget = self.policy.budget;
        let of_class = self
            .acted
            .iter()
            .filter(|(t, c)| c == class && at.since(*t) < budget.class_window)
            .count();
        if of_class >= budget.per_class {
            return Err(format!(
                "budget: {of_class} action for {class} within {} s",
                budget.class_window.as_secs()
            ));
        }
        if self.acted.len() >= budget.per_hour {
            return Err(format!(
                "budget: {} actions within an hour",
                self.acted.len()
            ));
        }
        Ok(())
    }

    fn ask_for_proof(
        &self,
        first: bool,
        incident: &Incident,
        draft: &Draft,
        out: &mut Vec<Output>,
    ) {
        if !first {
            return;
        }
        let targets: Vec<IpAddr> = draft
            .skipped
            .keys()
            .map(|peer| peer.0)
            .take(MAX_PROBED)
            .collect();
        let broken = incident.verdict.as_ref().and_then(broken);
        let egresses = self
            .policy
            .egresses
            .iter()
            .map(|egress| egress.name.clone())
            .filter(|name| broken.as_ref() != Some(name))
            .collect();
        self.request_probes(targets, egresses, out);
    }

    fn request_probes(
        &self,
        targets: Vec<IpAddr>,
        egresses: Vec<EgressName>,
        out: &mut Vec<Output>,
    ) {
        if targets.is_empty() || egresses.is_empty() {
            return;
        }
        out.push(Output::Effect(Effect::Probe(ProbeRequest {
            targets,
            flow_sources: self.policy.flow_sources.clone(),
            egresses,
            sources: vec![ProbeSource::Flow, ProbeSource::Link],
            count: 3,
            spacing: Duration::from_millis(15),
        })));
    }

    // --- a plan in force ---

    fn installed(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
        let Some(active) = self.plans.get_mut(&id) else {
            // Not wanted, or no longer: the adapter has it all the same, so it goes.
            out.push(Output::Effect(Effect::Revert {
                plan: id,
                reason: RevertReason::NotProgressing,
            }));
            return;
        };
        if !matches!(active.stage, Stage::Installing { .. }) {
            return;
        }
        active.stage = Stage::Verifying { since: at };
        active.renewed = at;
        active.next_renewal = at + self.policy.lease / 3;
        let prefixes = active.prefixes();
        active.overdue_at_install = self
            .flows
            .progress(&prefixes, at, at, Duration::ZERO)
            .overdue;
        self.flows.mark(&prefixes, at);
        let (incidents, ways) = (active.incidents.clone(), active.ways());
        let count = active.plan.routes.len();
        for incident in &incidents {
            self.journal(
                at,
                incident,
                EntryKind::Installed { plan: id },
                format!("{count} routes of plan {} are in the kernel", id.0),
                out,
            );
            self.say(incident, RemediationStatus::InstalledVerifying, out);
        }
        let targets = self.probed_of(&prefixes);
        let egresses = ways.into_iter().map(|(egress, _)| egress).collect();
        self.request_probes(targets, dedup(egresses), out);
    }

    /// One watched peer per prefix, to be probed for a plan.
    fn probed_of(&self, prefixes: &[Prefix]) -> Vec<IpAddr> {
        prefixes
            .iter()
            .filter_map(|prefix| self.facts.peers().find(|peer| prefix.contains(&peer.0)))
            .map(|peer| peer.0)
            .take(MAX_PROBED)
            .collect()
    }

    /// Judges plans by what flows and probes say.
    fn judge(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        let ids: Vec<PlanId> = self.plans.keys().copied().collect();
        for id in ids {
            let Some(active) = self.plans.get(&id) else {
                continue;
            };
            match active.stage {
                Stage::Verifying { since } => match self.post_check(active, since, at) {
                    Some(Ok(text)) => self.verified(at, id, text, out),
                    Some(Err(reason)) => self.revert(at, id, reason, out),
                    None => {}
                },
                Stage::Verified { .. } if self.backup_failed(active, at) => {
                    self.revert(at, id, RevertReason::BackupFailed, out);
                }
                _ => {}
            }
        }
    }

    /// `None`: not to be told yet.
    fn post_check(
        &self,
        active: &Active,
        since: Timestamp,
        at: Timestamp,
    ) -> Option<Result<String, RevertReason>> {
        let policy = &self.policy;
        let prefixes = active.prefixes();
        let flows = self.flows.progress(&prefixes, since, at, policy.in_flight);
        let half = flows.progressed * 2 >= flows.transmitted;
        let clear = policy
            .min_transmitted
            .max(active.overdue_at_install.div_ceil(2));
        let told = format!(
            "{} of {} flows that transmitted progress",
            flows.progressed, flows.transmitted
        );
        if flows.progressed >= clear && half {
            return Some(Ok(told));
        }
        let waited = at.since(since);
        let due = waited >= policy.post_check;
        if flows.transmitted >= policy.min_transmitted {
            return due.then_some({
                if half {
                    Ok(told)
                } else {
                    Err(RevertReason::NotProgressing)
                }
            });
        }
        let (alive, tested) = self.probes_of(active, &prefixes, since);
        if alive > 0 && alive * 2 >= tested {
            return (waited >= policy.post_check / 2).then(|| {
                Ok(format!(
                    "{} flows transmitted; {alive} of {tested} probed targets answer the flows' source",
                    flows.transmitted
                ))
            });
        }
        due.then_some({
            if tested > 0 {
                Err(RevertReason::ReturnPath)
            } else {
                Err(RevertReason::NotProgressing)
            }
        })
    }

    /// Targets that answer the flows' source since then, and targets tested: those in the plan's
    /// prefixes where any was tested, else all.
    fn probes_of(&self, active: &Active, prefixes: &[Prefix], since: Timestamp) -> (usize, usize) {
        let (mut inside, mut outside) = ((0, 0), (0, 0));
        for (egress, source) in active.ways() {
            for (target, proof) in self.facts.probes.flow_targets(&egress, source, since) {
                let counted = if prefixes.iter().any(|p| p.contains(&target)) {
                    &mut inside
                } else {
                    &mut outside
                };
                counted.0 += usize::from(proof == Proof::Alive);
                counted.1 += 1;
            }
        }
        if inside.1 > 0 { inside } else { outside }
    }

    fn backup_failed(&self, active: &Active, at: Timestamp) -> bool {
        active.ways().iter().any(|(egress, source)| {
            let (answered, made) =
                self.facts
                    .probes
                    .flow_count(egress, *source, at - BACKUP_WINDOW);
            answered == 0 && made >= BACKUP_LOSSES
        })
    }

    fn verified(&mut self, at: Timestamp, id: PlanId, text: String, out: &mut Vec<Output>) {
        let Some(active) = self.plans.get_mut(&id) else {
            return;
        };
        active.stage = Stage::Verified { since: at };
        for incident in active.incidents.clone() {
            self.journal(
                at,
                &incident,
                EntryKind::Verified { plan: id },
                text.clone(),
                out,
            );
            self.say(&incident, RemediationStatus::Verified, out);
        }
    }

    fn plan_timeout(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
        let Some(active) = self.plans.get(&id) else {
            return;
        };
        if active.heal_at.is_some_and(|due| due <= at) && !active.reverting() {
            self.healed.push_back(at);
            self.revert(at, id, RevertReason::Healed, out);
            return;
        }
        match active.stage {
            Stage::Installing { since } if at.since(since) >= ADAPTER_PATIENCE => {
                self.revert(at, id, RevertReason::InstallFailed, out);
            }
            Stage::Verified { .. } if active.next_renewal <= at => self.renew(at, id, out),
            Stage::Reverting { reason, asked } if at.since(asked) >= ADAPTER_PATIENCE => {
                if let Some(active) = self.plans.get_mut(&id) {
                    active.stage = Stage::Reverting { reason, asked: at };
                }
                out.push(Output::Effect(Effect::Revert { plan: id, reason }));
            }
            _ => {}
        }
    }

    /// Renews the lease while probes through the backup are answered; else asks for some, and
    /// gives the plan up before its lease ends.
    fn renew(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
        let third = self.policy.lease / 3;
        let Some(active) = self.plans.get(&id) else {
            return;
        };
        let answered = active.ways().iter().all(|(egress, source)| {
            self.facts.probes.flow_count(egress, *source, at - third).0 > 0
        });
        if !answered && at.since(active.renewed) >= third * 2 {
            self.revert(at, id, RevertReason::BackupFailed, out);
            return;
        }
        if !answered {
            let egresses = active.ways().into_iter().map(|(e, _)| e).collect();
            let targets = self.probed_of(&active.prefixes());
            self.request_probes(targets, dedup(egresses), out);
        }
        let Some(active) = self.plans.get_mut(&id) else {
            return;
        };
        if answered {
            active.renewed = at;
            active.next_renewal = at + third;
            out.push(Output::Effect(Effect::RenewLease { plan: id }));
        } else {
            active.next_renewal = at + (third / 4).max(Duration::from_millis(100));
        }
    }

    // --- taking back ---

    fn heal(&mut self, at: Timestamp, incident: &IncidentId, out: &mut Vec<Output>) {
        while self.healed.front().is_some_and(|t| at.since(*t) >= HOUR) {
            self.healed.pop_front();
        }
        let doublings = u32::try_from(self.healed.len()).unwrap_or(u32::MAX).min(16);
        let hold = (self.policy.hold_down * (1 << doublings)).min(MAX_HOLD_DOWN);
        let mut held = false;
        for id in self.serving(incident) {
            if let Some(active) = self.plans.get_mut(&id)
                && !active.reverting()
                && active.heal_at.is_none()
            {
                active.heal_at = Some(at + hold);
                held = true;
            }
        }
        if held {
            let text = format!(
                "the primary path works again; routes are kept for another {:.1} s",
                hold.as_secs_f64()
            );
            self.journal(at, incident, EntryKind::Note, text, out);
        } else if self.serving(incident).is_empty() {
            self.cases.remove(incident);
        }
        // A wait for proof ends with the reason for it.
        if let Some(case) = self.cases.get_mut(incident) {
            case.retry = None;
            if matches!(case.stage, CaseStage::Waiting { .. }) {
                case.stage = CaseStage::Closed;
            }
        }
    }

    fn revert_all(&mut self, at: Timestamp, reason: RevertReason, out: &mut Vec<Output>) {
        let ids: Vec<PlanId> = self.plans.keys().copied().collect();
        for id in ids {
            self.revert(at, id, reason, out);
        }
    }

    fn revert(&mut self, at: Timestamp, id: PlanId, reason: RevertReason, out: &mut Vec<Output>) {
        let Some(active) = self.plans.get_mut(&id) else {
            return;
        };
        if active.reverting() {
            return;
        }
        active.stage = Stage::Reverting { reason, asked: at };
        out.push(Output::Effect(Effect::Revert { plan: id, reason }));
    }

    fn reverted(&mut self, at: Timestamp, id: PlanId, reason: RevertReason, out: &mut Vec<Output>) {
        let Some(active) = self.plans.remove(&id) else {
            return;
        };
        let actor = if reason == RevertReason::LeaseExpired {
            Actor::Watchdog
        } else {
            Actor::Routes
        };
        for incident in &active.incidents {
            out.push(Output::Journal(Entry {
                incident: incident.clone(),
                at,
                received_at: None,
                actor,
                kind: EntryKind::Reverted { plan: id, reason },
                text: format!("plan {} is taken back: {}", id.0, why(reason)),
                evidence: Vec::new(),
            }));
            self.close(incident, reason != RevertReason::Healed);
            self.say(incident, RemediationStatus::Reverted(reason), out);
            if reason == RevertReason::Healed && self.serving(incident).is_empty() {
                self.cases.remove(incident);
            }
        }
    }

    fn refuse_waiting(&mut self, at: Timestamp, reason: &str, out: &mut Vec<Output>) {
        let waiting: Vec<IncidentId> = self
            .cases
            .iter()
            .filter(|(_, case)| matches!(case.stage, CaseStage::Waiting { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            self.refuse(at, &id, reason.to_owned(), out);
        }
    }

    fn refuse(&mut self, at: Timestamp, id: &IncidentId, reason: String, out: &mut Vec<Output>) {
        if let Some(case) = self.cases.get_mut(id)
            && case.stage != CaseStage::Acting
        {
            case.stage = CaseStage::Closed;
        }
        let status = RemediationStatus::Refused(reason.clone());
        let known = self.cases.get(id).and_then(|case| case.status.as_ref());
        // Every update of an incident asks again; the same answer is said once. A refused
        // extension leaves the status of what is in force.
        if known == Some(&status) {
            return;
        }
        let acting = self
            .cases
            .get(id)
            .is_some_and(|c| c.stage == CaseStage::Acting);
        self.journal(
            at,
            id,
            EntryKind::Refused {
                reason: reason.clone(),
            },
            format!("no route is changed: {reason}"),
            out,
        );
        if !acting {
            self.say(id, status, out);
        }
    }

    // --- small things ---

    fn serving(&self, incident: &IncidentId) -> Vec<PlanId> {
        self.plans
            .iter()
            .filter(|(_, active)| active.incidents.contains(incident))
            .map(|(id, _)| *id)
            .collect()
    }

    fn close(&mut self, id: &IncidentId, blocked: bool) {
        let served = !self.serving(id).is_empty();
        if let Some(case) = self.cases.get_mut(id) {
            case.blocked |= blocked;
            if !served {
                case.stage = CaseStage::Closed;
            }
        }
    }

    /// Drops the oldest case without a plan in force when there are too many.
    fn make_room(&mut self) {
        while self.cases.len() >= MAX_CASES {
            let oldest = self
                .cases
                .iter()
                .filter(|(id, _)| self.serving(id).is_empty())
                .min_by_key(|(_, case)| case.incident.suspected_at)
                .map(|(id, _)| id.clone());
            match oldest {
                Some(id) => self.cases.remove(&id),
                None => return,
            };
        }
    }

    fn say(&mut self, id: &IncidentId, status: RemediationStatus, out: &mut Vec<Output>) {
        if let Some(case) = self.cases.get_mut(id) {
            if case.status.as_ref() == Some(&status) {
                return;
            }
            case.status = Some(status.clone());
        }
        out.push(Output::Status {
            incident: id.clone(),
            status,
        });
    }

    #[allow(clippy::unused_self)]
    fn journal(
        &self,
        at: Timestamp,
        incident: &IncidentId,
        kind: EntryKind,
        text: String,
        out: &mut Vec<Output>,
    ) {
        out.push(Output::Journal(Entry {
            incident: incident.clone(),
            at,
            received_at: None,
            actor: Actor::Planner,
            kind,
            text,
            evidence: Vec::new(),
        }));
    }
}

/// The egress that a verdict blames.
fn broken(verdict: &Verdict) -> Option<EgressName> {
    match verdict {
        Verdict::LocalLink { egress }
        | Verdict::Gateway { egress }
        | Verdict::UpstreamAs { egress, .. } => Some(egress.clone()),
        _ => None,
    }
}

/// Why a verdict never permits a route, if it does not.
fn forbids(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::LocalLink { .. }
        | Verdict::Gateway { .. }
        | Verdict::UpstreamAs { .. }
        | Verdict::RemoteAs { .. }
        | Verdict::Prefix { .. } => None,
        Verdict::SinglePeer { .. } => Some("one peer is down, not a path: no route is changed"),
        Verdict::ReturnPath { .. } => Some("return path: a route change repairs the way out only"),
        Verdict::HostStall => Some("this host was stalled: the network is not blamed"),
        Verdict::TotalIsolation => Some("every egress is dead: routes stay as they are"),
        Verdict::None => Some("no fault found"),
    }
}

fn describe(routes: &[RouteSpec]) -> String {
    const SHOWN: usize = 8;
    let mut text = routes
        .iter()
        .take(SHOWN)
        .map(|route| {
            format!(
                "{} via {} dev {} src {} metric {}",
                route.prefix, route.gateway, route.interface, route.source, route.metric
            )
        })
        .collect::<Vec<_>>()
        .join(", ");
    if routes.len() > SHOWN {
        text.push_str(&format!(" and {} more", routes.len() - SHOWN));
    }
    text
}

fn dedup(mut egresses: Vec<EgressName>) -> Vec<EgressName> {
    egresses.sort();
    egresses.dedup();
    egresses
}
