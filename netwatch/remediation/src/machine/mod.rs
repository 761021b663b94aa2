//! The planner's state machine: one case per incident, one record per plan in force.
//!
//! ```text
//! case:  Waiting ─▶ Acting ─▶ Closed          plan:  Installing ─▶ Verifying ─▶ Verified
//!           │  └──▶ Shadow                                │             │           │
//!           └─────▶ Closed (refused, nothing to do)       └──────▶ Reverting ◀──────┘
//! ```

mod force;
mod planning;
mod revert;
mod state;
mod status;

use state::*;
pub use status::{CaseView, Output, PlanView, RemediationStatus, RemediatorView, Stage};

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use events::{
    Actor, BgpSignal, Conclusion, Entry, EntryKind, FibChange, HostSignal, IncidentId,
    OperatorCommand, Outcome, PeerKey, PlanId, ProbeResult, RevertReason, Signal, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::flows::Flows;
use crate::{Facts, Policy};

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

    /// What it goes by.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Goes by something else from now on; what was learned stays.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// An earlier run acted on an incident of a class, then: it counts in the budget.
    pub fn acted_before(&mut self, at: Timestamp, class: String) {
        let place = self.acted.partition_point(|(other, _)| *other <= at);
        self.acted.insert(place, (at, class));
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
        let judging = |active: &Active| matches!(active.stage, Stage::Verifying { .. });
        if self.plans.values().any(judging) {
            self.judge(at, out);
        }
    }

    /// Who is watched from now on, all of them. What is known of a peer is told once, so it is kept
    /// for as long as the peer is watched, connected or not.
    pub fn watch(&mut self, peers: &[(PeerKey, Option<IpAddr>)]) {
        self.facts.keep(peers);
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
            Outcome::Nudged { .. }
            | Outcome::PageSent { .. }
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
                } else {
                    self.reconsider_all(at);
                }
            }
            OperatorCommand::Maintenance { active, reason } => {
                self.facts.maintenance = active.then(|| {
                    reason
                        .clone()
                        .unwrap_or_else(|| "no reason given".to_owned())
                });
                if !active {
                    self.resume_retries(at);
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
            CaseStage::Waiting { since, .. } => Some(since + self.policy.settle),
            _ => None,
        });
        let looks = self.cases.values().filter_map(|case| match case.stage {
            CaseStage::Waiting { looked, .. } => Some(looked + LOOK_EVERY),
            _ => None,
        });
        let retries = self.cases.values().filter_map(|case| case.retry);
        let late = self.cases.values().filter_map(|case| match case.stage {
            CaseStage::Waiting { since, .. } => Some(since + self.policy.proof_wait),
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
            .chain(looks)
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
            maintenance: self.facts.maintenance.clone(),
            acted_last_hour: (
                self.acted_since(self.handled - HOUR),
                self.policy.budget.per_hour,
            ),
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

    pub(super) fn serving(&self, incident: &IncidentId) -> Vec<PlanId> {
        self.plans
            .iter()
            .filter(|(_, active)| active.incidents.contains(incident))
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn close(&mut self, id: &IncidentId, blocked: bool) {
        let served = !self.serving(id).is_empty();
        if let Some(case) = self.cases.get_mut(id) {
            case.blocked |= blocked;
            if !served {
                case.stage = CaseStage::Closed;
            }
        }
    }

    /// Drops the oldest case without a plan in force when there are too many.
    pub(super) fn make_room(&mut self) {
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

    pub(super) fn say(
        &mut self,
        id: &IncidentId,
        status: RemediationStatus,
        out: &mut Vec<Output>,
    ) {
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
    pub(super) fn journal(
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
