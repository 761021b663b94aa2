//! From a verdict to a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use events::{
    Effect, EgressName, EntryKind, Incident, IncidentId, Plan, PlanId, PlanMode, ProbeRequest,
    ProbeSource, RevertReason, RouteSpec, Timestamp, Verdict,
};

use crate::plan::{Age, Draft, draft_for};
use crate::{Refusal, check};

use super::Remediator;
use super::state::*;
use super::status::*;

impl Remediator {
    pub(super) fn verdict(&mut self, at: Timestamp, incident: &Incident, out: &mut Vec<Output>) {
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
            decided: at,
        });
        case.incident = incident.clone();
        if changed {
            case.decided = at;
        }
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
                    case.stage = CaseStage::Waiting {
                        since: at,
                        looked: at,
                    };
                }
            }
        }
        self.consider(at, &id, out);
    }

    /// A plan whose primary had healed, and broke again before the hold-down was over, serves the
    /// new incident too.
    pub(super) fn adopt(
        &mut self,
        at: Timestamp,
        id: &IncidentId,
        verdict: &Verdict,
        out: &mut Vec<Output>,
    ) -> bool {
        let found = self.plans.iter_mut().find(|(_, active)| {
            active.heal_at.is_some()
                && !active.reverting()
                && active.verdict.broken_egress() == verdict.broken_egress()
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

    /// Looks at waiting cases again, but not at every one of a burst of facts.
    pub(super) fn consider_waiting(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        let mut due = Vec::new();
        for (id, case) in &mut self.cases {
            if let CaseStage::Waiting { looked, .. } = &mut case.stage
                && at.since(*looked) >= LOOK_EVERY
            {
                *looked = at;
                due.push(id.clone());
            }
        }
        for id in due {
            self.consider(at, &id, out);
        }
    }

    /// Plans, waits, or gives up.
    pub(super) fn consider(&mut self, at: Timestamp, id: &IncidentId, out: &mut Vec<Output>) {
        let Some(case) = self.cases.get(id) else {
            return;
        };
        let extension = case.stage == CaseStage::Acting;
        let since = match case.stage {
            CaseStage::Waiting { since, .. } => since,
            _ => at,
        };
        if !self.policy.probes {
            let reason = "probes are off, so no backup can be proven".to_owned();
            self.refuse(at, id, reason, out);
            return;
        }
        let incident = case.incident.clone();
        let age = Age {
            decided: case.decided,
            now: at,
            late: at.since(case.decided) > self.policy.proof_wait,
        };
        let draft = self.draft(&incident, age);
        let undecided = draft.undecided(&incident.affected);
        let waited = at.since(since);
        if !draft.routes.is_empty() {
            if undecided && waited < self.policy.settle && !extension {
                self.ask_for_proof(at == since, &draft, out);
                return;
            }
            let may_improve = draft.may_improve(&incident.affected);
            let proposed = self.propose(at, id, draft, out);
            self.look_again(at, id, may_improve || !proposed);
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
            self.ask_for_proof(at == since, &draft, out);
            return;
        }
        match draft.why_nothing() {
            Some(mut reason) => {
                if let Some(window) = self.facts.in_maintenance() {
                    reason = format!("{window}; {reason}");
                }
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

    pub(super) fn draft(&self, incident: &Incident, age: Age) -> Draft {
        let mut draft = draft_for(incident, &self.policy, &self.facts, &self.flows, true, age);
        self.drop_known(&mut draft);
        if draft.routes.len() > self.policy.max_routes {
            draft = draft_for(incident, &self.policy, &self.facts, &self.flows, false, age);
            self.drop_known(&mut draft);
        }
        draft
    }

    pub(super) fn look_again(&mut self, at: Timestamp, id: &IncidentId, worthwhile: bool) {
        if let Some(case) = self.cases.get_mut(id) {
            let room = !case.blocked
                && case.plans.len() < MAX_PLANS_PER_CASE
                && case.stage != CaseStage::Shadow;
            // What is refused during a maintenance window may be permitted after it.
            let worthwhile = worthwhile || self.facts.maintenance.is_some();
            let pause = if case.retries < RETRIES {
                RETRY_EVERY
            } else {
                RETRY_LATER
            };
            case.retry = (worthwhile && room).then_some(at + pause);
        }
    }

    /// A maintenance window ended: retries that fell into it are due again.
    pub(super) fn resume_retries(&mut self, at: Timestamp) {
        for case in self.cases.values_mut() {
            case.retry = case.retry.map(|_| at + RETRY_EVERY);
        }
    }

    /// The kill switch was removed: what it held back or took away may be wanted still.
    pub(super) fn reconsider_all(&mut self, at: Timestamp) {
        for case in self.cases.values_mut() {
            if !case.blocked && case.stage == CaseStage::Closed {
                case.retry = Some(at + RETRY_EVERY);
            }
        }
    }

    /// Proof of a backup may come after the refusal, or after a first plan without some prefixes.
    pub(super) fn retry(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        if self.facts.maintenance.is_some() {
            return;
        }
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
            case.retries = case.retries.saturating_add(1);
            let permitted = case
                .incident
                .verdict
                .as_ref()
                .is_some_and(|verdict| forbids(verdict).is_none());
            if self.stopping || self.facts.kill_switch || case.blocked || !permitted {
                continue;
            }
            let incident = case.incident.clone();
            let age = Age {
                decided: case.decided,
                now: at,
                late: true,
            };
            let draft = self.draft(&incident, age);
            let may_improve = draft.may_improve(&incident.affected);
            let refused = !draft.routes.is_empty() && !self.propose(at, &id, draft, out);
            self.look_again(at, &id, may_improve || refused);
        }
    }

    /// Routes that are in force already are not planned again.
    pub(super) fn drop_known(&self, draft: &mut Draft) {
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

    /// Asks for a draft's routes, or refuses; false: refused.
    pub(super) fn propose(
        &mut self,
        at: Timestamp,
        id: &IncidentId,
        draft: Draft,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(case) = self.cases.get(id) else {
            return false;
        };
        let Some(verdict) = case.incident.verdict.clone() else {
            return false;
        };
        let onset = case.incident.proof_from();
        let (charged, class) = (case.charged, verdict.class());
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
            .map_err(|refusal| match refusal {
                Refusal::Maintenance { .. } => format!("{refusal}; advice: install {routes}"),
                _ => refusal.to_string(),
            })
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
            return false;
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
            return true;
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
        true
    }

    /// Whether the budget has room for one more incident of a class.
    pub(super) fn afford(&mut self, at: Timestamp, class: &str) -> Result<(), String> {
        let budget = self.policy.budget;
        let weighs = budget.class_window.max(HOUR);
        while self
            .acted
            .front()
            .is_some_and(|(t, _)| at.since(*t) >= weighs)
        {
            self.acted.pop_front();
        }
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
        let of_hour = self.acted_since(at - HOUR);
        if of_hour >= budget.per_hour {
            return Err(format!("budget: {of_hour} actions within an hour"));
        }
        Ok(())
    }

    pub(super) fn acted_since(&self, since: Timestamp) -> usize {
        self.acted.iter().filter(|(at, _)| *at >= since).count()
    }

    pub(super) fn ask_for_proof(&self, first: bool, draft: &Draft, out: &mut Vec<Output>) {
        if !first {
            return;
        }
        let targets: Vec<IpAddr> = draft
            .skipped
            .keys()
            .map(|peer| peer.0)
            .take(MAX_PROBED)
            .collect();
        // The broken one as well: what answers through it stays.
        let egresses = self.policy.egresses.iter();
        let egresses = egresses.map(|egress| egress.name.clone()).collect();
        self.request_probes(targets, egresses, out);
    }

    pub(super) fn request_probes(
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
}

/// Why a verdict never permits a route, if it does not.
pub(super) fn forbids(verdict: &Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::LocalLink { .. }
        | Verdict::Gateway { .. }
        | Verdict::UpstreamAs { .. }
        | Verdict::AddressFamily { .. }
        | Verdict::EgressOnly { .. }
        | Verdict::RemoteAs { .. }
        | Verdict::Prefix { .. } => None,
        Verdict::SinglePeer { .. } => Some("one peer is down, not a path: no route is changed"),
        Verdict::ReturnPath { .. } => Some("return path: a route change repairs the way out only"),
        Verdict::HostStall => Some("this host was stalled: the network is not blamed"),
        Verdict::Latency { .. } => Some("round-trip times rose, nothing is lost"),
        Verdict::TotalIsolation => Some("every egress is dead: routes stay as they are"),
        Verdict::None => Some("no fault found"),
    }
}

/// Routes for people, by the way they take; a plan's entry in the journal has them all.
pub(super) fn describe(routes: &[RouteSpec]) -> String {
    const SHOWN: usize = 4;
    let mut ways: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for route in routes {
        let way = format!(
            "via {} dev {} src {} metric {}",
            route.gateway, route.interface, route.source, route.metric
        );
        ways.entry(way).or_default().push(route.prefix.to_string());
    }
    let ways: Vec<String> = ways
        .into_iter()
        .map(|(way, mut prefixes)| {
            let more = prefixes.len().saturating_sub(SHOWN);
            prefixes.truncate(SHOWN);
            let prefixes = prefixes.join(", ");
            match more {
                0 => format!("{prefixes} {way}"),
                more => format!("{prefixes} and {more} more {way}"),
            }
        })
        .collect();
    ways.join("; ")
}

pub(super) fn dedup(mut egresses: Vec<EgressName>) -> Vec<EgressName> {
    egresses.sort();
    egresses.dedup();
    egresses
}
