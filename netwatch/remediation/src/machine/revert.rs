//! Routes are taken back, and cases closed.

use events::{Actor, Effect, Entry, EntryKind, IncidentId, PlanId, RevertReason, Timestamp};

use super::Remediator;
use super::state::*;
use super::status::*;

impl Remediator {
    pub(super) fn heal(&mut self, at: Timestamp, incident: &IncidentId, out: &mut Vec<Output>) {
        while self.healed.front().is_some_and(|t| at.since(*t) >= HOUR) {
            self.healed.pop_front();
        }
        let doublings = u32::try_from(self.healed.len()).unwrap_or(u32::MAX).min(16);
        let hold = (self.policy.hold_down * (1 << doublings)).min(self.policy.hold_down_max);
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

    pub(super) fn revert_all(
        &mut self,
        at: Timestamp,
        reason: RevertReason,
        out: &mut Vec<Output>,
    ) {
        let ids: Vec<PlanId> = self.plans.keys().copied().collect();
        for id in ids {
            self.revert(at, id, reason, out);
        }
    }

    pub(super) fn revert(
        &mut self,
        at: Timestamp,
        id: PlanId,
        reason: RevertReason,
        out: &mut Vec<Output>,
    ) {
        let Some(active) = self.plans.get_mut(&id) else {
            return;
        };
        if active.reverting() {
            return;
        }
        active.stage = Stage::Reverting { reason, asked: at };
        out.push(Output::Effect(Effect::Revert { plan: id, reason }));
    }

    pub(super) fn reverted(
        &mut self,
        at: Timestamp,
        id: PlanId,
        reason: RevertReason,
        out: &mut Vec<Output>,
    ) {
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
            // The kill switch is a pause. What failed, or what a person took back, stays away.
            let pause = matches!(reason, RevertReason::Healed | RevertReason::KillSwitch);
            self.close(incident, !pause);
            self.say(incident, RemediationStatus::Reverted(reason), out);
            if reason == RevertReason::Healed && self.serving(incident).is_empty() {
                self.cases.remove(incident);
            }
        }
    }

    pub(super) fn refuse_waiting(&mut self, at: Timestamp, reason: &str, out: &mut Vec<Output>) {
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

    pub(super) fn refuse(
        &mut self,
        at: Timestamp,
        id: &IncidentId,
        reason: String,
        out: &mut Vec<Output>,
    ) {
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
}
