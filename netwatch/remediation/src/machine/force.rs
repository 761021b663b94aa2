//! A plan in force: judged and renewed.

use std::net::IpAddr;
use std::time::Duration;

use events::{Effect, EntryKind, PlanId, Prefix, RevertReason, Timestamp};

use crate::Proof;

use super::Remediator;
use super::planning::*;
use super::state::*;
use super::status::*;

impl Remediator {
    pub(super) fn installed(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
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
        if self.policy.nudge
            && let Some(incident) = incidents.last()
        {
            out.push(Output::Effect(Effect::Nudge {
                plan: id,
                incident: incident.clone(),
                prefixes: prefixes.clone(),
            }));
        }
        let egresses = ways.into_iter().map(|(egress, _)| egress).collect();
        self.request_probes(targets, dedup(egresses), out);
    }

    /// One watched peer per prefix, to be probed for a plan.
    pub(super) fn probed_of(&self, prefixes: &[Prefix]) -> Vec<IpAddr> {
        prefixes
            .iter()
            .filter_map(|prefix| self.facts.peers().find(|peer| prefix.contains(&peer.0)))
            .map(|peer| peer.0)
            .take(MAX_PROBED)
            .collect()
    }

    /// Judges plans by what flows and probes say.
    pub(super) fn judge(&mut self, at: Timestamp, out: &mut Vec<Output>) {
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
    pub(super) fn post_check(
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
    pub(super) fn probes_of(
        &self,
        active: &Active,
        prefixes: &[Prefix],
        since: Timestamp,
    ) -> (usize, usize) {
        let (mut inside, mut outside) = ((0, 0), (0, 0));
        for (egress, source) in active.ways() {
            for (target, proof) in self.facts.probes.flow_targets(&egress, source, since, None) {
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

    pub(super) fn backup_failed(&self, active: &Active, at: Timestamp) -> bool {
        active.ways().iter().any(|(egress, source)| {
            let (answered, made) =
                self.facts
                    .probes
                    .flow_count(egress, *source, at - BACKUP_WINDOW);
            answered == 0 && made >= BACKUP_LOSSES
        })
    }

    pub(super) fn verified(
        &mut self,
        at: Timestamp,
        id: PlanId,
        text: String,
        out: &mut Vec<Output>,
    ) {
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

    pub(super) fn plan_timeout(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
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
    pub(super) fn renew(&mut self, at: Timestamp, id: PlanId, out: &mut Vec<Output>) {
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
}
