//! An incident's life: opened, given a verdict, merged, named, ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{
    Actor, Conclusion, EgressName, EntryKind, EvidenceSource, Incident, IncidentId, IncidentState,
    PeerKey, Prefix, Timestamp, Verdict,
};

use crate::case::{Case, egress_of, is_wide, rank};
use crate::correlator::{Correlator, Output, PUBLISH_DELAY};
use crate::diagnosis::{self, Finding};
use crate::heal::{self, Health};
use crate::join;
use crate::story;
use crate::suspicion::Suspicion;
use crate::tell::{entry, first_text, onset_text, tell_bgp};

/// Ended incidents remembered.
const MAX_ENDED: usize = 16;
/// A verdict of small scope may become one of a larger scope for so long.
const UPGRADE: Duration = Duration::from_secs(1);
/// After that another verdict must hold for so long to replace the first.
const STABLE: Duration = Duration::from_millis(800);
/// An incident that ended so long ago may have to do with a new one ...
const RELATED: Duration = Duration::from_secs(10);
/// ... and one of the same egress longer.
const RELATED_SAME: Duration = Duration::from_secs(300);

impl Correlator {
    /// Opens a case.
    pub(crate) fn open(&mut self, now: Timestamp, found: Suspicion, out: &mut Vec<Output>) {
        let egress = found.egress.clone();
        let mut case = self.new_case(now, egress, found.onset, found.source, found.narrow);
        case.failed = found.failed.iter().copied().collect();
        case.probe_at = Some(now);
        let mut owners = self.owners();
        for key in &case.failed {
            owners.insert(*key, case.number);
        }
        let view = self.view(now, &owners);
        let affected: Vec<(PeerKey, Prefix)> = case
            .failed
            .iter()
            .map(|key| (*key, view.prefix(key, &case.egress)))
            .collect();
        let lines = story::evidence(&view, &case);
        for (key, prefix) in affected {
            case.affect(key, prefix);
        }
        case.add(lines.iter().cloned());
        let actor = match found.source {
            EvidenceSource::Tcp => Actor::Tracker,
            EvidenceSource::Probe => Actor::Prober,
            EvidenceSource::Bgp => Actor::Bgp,
            EvidenceSource::Host => Actor::Host,
        };
        let first = lines.iter().find(|line| line.source == found.source);
        let entries = [
            (
                case.onset,
                Actor::Correlator,
                EntryKind::Onset,
                onset_text(found.source),
                vec![],
            ),
            (
                found.first_at,
                actor,
                EntryKind::FirstEvidence,
                first_text(found.source).to_owned(),
                first.cloned().into_iter().collect(),
            ),
            (
                now,
                Actor::Correlator,
                EntryKind::Suspected,
                format!("something is wrong through {}", case.egress),
                lines.clone(),
            ),
        ];
        for (at, actor, kind, text, evidence) in entries {
            out.push(Output::Journal(entry(
                &case, at, actor, kind, text, evidence,
            )));
        }
        out.push(Output::Conclusion(Conclusion::Suspected(case.incident())));
        self.cases.push(case);
    }

    /// A case with a name of its own, related to those that are open.
    pub(crate) fn new_case(
        &mut self,
        now: Timestamp,
        egress: EgressName,
        onset: Timestamp,
        source: EvidenceSource,
        narrow: bool,
    ) -> Case {
        let number = self.next_number;
        self.next_number += 1;
        let id = IncidentId(format!("{}-{number}", self.params.run_id));
        let related = self.relatives(&egress, onset);
        let slow = self.latency.cases.iter_mut().map(|slow| &mut slow.case);
        for other in self.cases.iter_mut().chain(slow) {
            other.relate(id.clone());
        }
        Case {
            number,
            id,
            egress,
            onset,
            suspected_at: now,
            confirmed_at: None,
            verdict: None,
            verdict_at: None,
            rival: None,
            first_evidence: source,
            narrow,
            evidence: Vec::new(),
            affected: BTreeMap::new(),
            failed: BTreeSet::new(),
            bgp: Default::default(),
            bgp_summary: Default::default(),
            bgp_told: 0,
            bgp_lines: 0,
            publish_at: None,
            probe_at: None,
            dark_by: None,
            asked: BTreeMap::new(),
            cause: None,
            related,
            well_since: None,
            recovered_at: None,
            bad_at: now,
        }
    }

    /// Keeps an ended incident for those who ask.
    pub(crate) fn remember(&mut self, incident: Incident) {
        self.ended.push_back(incident);
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
    }

    /// Asks the diagnoses about a case and takes their answer where it is better.
    pub(crate) fn rediagnose(&mut self, index: usize, now: Timestamp, out: &mut Vec<Output>) {
        let owners = self.owners();
        let view = self.view(now, &owners);
        let Some(case) = self.cases.get(index) else {
            return;
        };
        let failing: Vec<PeerKey> = view.of_case(case).iter().map(|f| f.key).collect();
        let found = diagnosis::diagnose(&view, case);
        let prefixes = |keys: &[PeerKey]| -> Vec<(PeerKey, Prefix)> {
            keys.iter()
                .map(|key| (*key, view.prefix(key, &case.egress)))
                .collect()
        };
        let Some(Finding { verdict, affected }) = found else {
            return;
        };
        let affected = prefixes(&affected);
        // No verdict of its own for what another one names.
        if let Verdict::SinglePeer { peer } = verdict
            && case.verdict.is_none()
            && let Some(larger) = self.larger(case, peer)
        {
            self.take_in(larger, affected, now);
            return;
        }
        let same = case.verdict.as_ref() == Some(&verdict);
        let dark_by = view.dark_by(case, &verdict);
        let lines = if same {
            Vec::new()
        } else {
            story::evidence(&view, case)
        };
        let Some(case) = self.cases.get_mut(index) else {
            return;
        };
        if same {
            case.rival = None;
        } else if !replaces(case, &verdict, now) {
            return;
        }
        let mut grown = false;
        if let Verdict::AddressFamily { ipv6, .. } = verdict {
            // The other family was affected by what broke more widely before.
            case.affected.retain(|peer, _| peer.0.is_ipv6() == ipv6);
            case.failed.retain(|peer| peer.0.is_ipv6() == ipv6);
        }
        if !same && !case.is_wide() && case.narrow {
            // The suspicion's own peers stay only as far as the verdict names them.
            case.affected.clear();
            case.failed.clear();
        }
        for (key, prefix) in affected {
            grown |= case.affect(key, prefix);
        }
        for key in failing {
            if case.affected.contains_key(&key) {
                case.failed.insert(key);
            }
        }
        if same {
            if grown {
                case.publish_at.get_or_insert(now + PUBLISH_DELAY);
            }
            return;
        }
        self.peers.outage(case.failed.iter());
        case.dark_by = dark_by;
        if case.verdict.as_ref().is_some_and(is_wide) {
            case.recovered_at = case.well_since;
        }
        case.verdict = Some(verdict.clone());
        case.verdict_at = Some(now);
        case.rival = None;
        case.confirmed_at.get_or_insert(now);
        case.well_since = None;
        case.bad_at = now;
        // Those that the verdict adds are probed at once: what a backup carries is asked next.
        case.probe_at = Some(now);
        case.add(lines.iter().cloned());
        let text = story::verdict(case, &verdict);
        out.push(Output::Journal(entry(
            case,
            now,
            Actor::Correlator,
            EntryKind::Verdict { verdict },
            text,
            lines,
        )));
        case.bgp = join::tally(&self.log, case, &self.params);
        case.bgp_summary = join::summary(&case.bgp, case, &self.routes, &self.params);
        let early = case
            .bgp
            .first_at
            .is_some_and(|at| at < case.onset && case.onset.since(at) < Duration::from_secs(5));
        if early {
            case.first_evidence = EvidenceSource::Bgp;
        }
        tell_bgp(case, &self.log, &self.params, out);
        out.push(Output::Conclusion(Conclusion::Confirmed {
            incident: case.incident(),
            bgp: case.bgp_summary.clone(),
        }));
    }

    /// Names what stalled this host, as soon and as often as that becomes known.
    pub(crate) fn name_causes(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        for case in &mut self.cases {
            if case.verdict != Some(Verdict::HostStall) {
                continue;
            }
            let cause = self.host.cause(case.onset - story::BEFORE, now);
            if cause == case.cause || cause.is_none() {
                continue;
            }
            case.cause = cause;
            case.publish_at.get_or_insert(now + PUBLISH_DELAY);
            let text = case.cause.as_ref().map(ToString::to_string);
            out.push(Output::Journal(entry(
                case,
                now,
                Actor::Host,
                EntryKind::Note,
                text.unwrap_or_default(),
                Vec::new(),
            )));
        }
    }

    /// Open incidents, and those that ended shortly before the onset: what follows may be of one
    /// cause, or the other way round.
    pub(crate) fn relatives(&self, egress: &EgressName, onset: Timestamp) -> Vec<IncidentId> {
        let lately = self.ended.iter().filter(|old| {
            let same = old.verdict.as_ref().and_then(egress_of) == Some(egress);
            let pause = if same { RELATED_SAME } else { RELATED };
            old.verdict != Some(Verdict::None)
                && old.resolved_at.is_some_and(|at| at + pause >= onset)
        });
        let mut ids: Vec<IncidentId> = lately.map(|old| old.id.clone()).collect();
        ids.extend(self.cases.iter().map(|case| case.id.clone()));
        ids.extend(self.latency.cases.iter().map(|slow| slow.case.id.clone()));
        ids
    }

    /// A wide verdict takes in suspicions that are still open on the same egress.
    pub(crate) fn absorb(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let wide: BTreeSet<EgressName> = self
            .cases
            .iter()
            .filter(|c| c.verdict.is_some() && c.is_wide())
            .map(|c| c.egress.clone())
            .collect();
        let mut index = 0;
        while let Some(case) = self.cases.get(index) {
            if case.verdict.is_none() && wide.contains(&case.egress) {
                self.end(index, now, "part of a larger incident", false, out);
            } else {
                index += 1;
            }
        }
    }

    /// Ends cases that healed, were not borne out, or of which nothing more is heard.
    pub(crate) fn settle(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let t = self.params.thresholds.clone();
        let mut index = 0;
        while index < self.cases.len() {
            let owners = self.owners();
            let view = self.view(now, &owners);
            let Some(case) = self.cases.get(index) else {
                break;
            };
            let health = heal::health(&view, case);
            let dark = case.verdict.is_none()
                && view
                    .anchors(&case.egress, None, case.onset, crate::view::Families::BOTH)
                    .iter()
                    .any(|a| a.window.misses(view.now) >= t.anchor_misses);
            let Some(case) = self.cases.get_mut(index) else {
                break;
            };
            match health {
                Health::Well => {
                    case.well_since.get_or_insert(now);
                }
                Health::Bad => {
                    case.well_since = None;
                    case.bad_at = now;
                }
                Health::Unknown => case.well_since = None,
            }
            let flaps = self.flaps.get(&case.egress);
            let heal = t.healed_after(flaps.map_or(1, |flaps| flaps.patience(now)));
            let patience = if dark { t.give_up * 4 } else { t.give_up };
            let reason = if case.verdict.is_none() {
                (now >= case.suspected_at + patience).then_some("no fault found")
            } else if case.well_since.is_some_and(|since| now >= since + heal) {
                Some("the path answers again")
            } else if now >= case.bad_at + t.silence {
                Some("nothing more was heard of it")
            } else {
                None
            };
            match reason {
                Some(reason) => self.end(index, now, reason, true, out),
                None => index += 1,
            }
        }
    }

    pub(crate) fn end(
        &mut self,
        index: usize,
        now: Timestamp,
        reason: &str,
        dismiss: bool,
        out: &mut Vec<Output>,
    ) {
        let owners = self.owners();
        let lines = match self.cases.get(index) {
            Some(case) => story::evidence(&self.view(now, &owners), case),
            None => return,
        };
        let case = self.cases.remove(index);
        if dismiss {
            self.peers.dismiss(case.affected.keys().chain(&case.failed));
            self.dismissed.insert(case.egress.clone(), now);
            if case.verdict.as_ref().and_then(egress_of).is_some() {
                self.flaps
                    .entry(case.egress.clone())
                    .or_default()
                    .healed(now);
            }
        }
        let t = &self.params.thresholds;
        let flaps = self.flaps.get(&case.egress);
        let next = t.healed_after(flaps.map_or(1, |flaps| flaps.patience(now)));
        let mut reason = reason.to_owned();
        if dismiss && next > t.heal * 2 {
            reason.push_str(&format!(
                "; it breaks again and again: the next time it must answer for {} s",
                next.as_secs()
            ));
        }
        let since = case.well_since.unwrap_or(now);
        let mut incident = case.incident();
        incident.state = IncidentState::Resolved;
        incident.resolved_at = Some(now);
        incident.verdict.get_or_insert(Verdict::None);
        self.remember(incident);
        self.late.ended(&case);
        out.push(Output::Journal(entry(
            &case,
            now,
            Actor::Correlator,
            EntryKind::Resolved,
            reason,
            lines,
        )));
        out.push(Output::Conclusion(Conclusion::Healed {
            incident: case.id,
            at: since,
        }));
    }
}

/// Whether a verdict may take the place of the one a case has. Early on evidence still comes in;
/// later, while things heal, half of it is old: another verdict must then hold for a while.
fn replaces(case: &mut Case, new: &Verdict, now: Timestamp) -> bool {
    let (Some(old), Some(since)) = (&case.verdict, case.verdict_at) else {
        return true;
    };
    let early = now <= since + UPGRADE;
    let better = match old {
        // One egress is back: what is still broken may now be mended.
        Verdict::TotalIsolation => true,
        Verdict::SinglePeer { .. } | Verdict::Prefix { .. } | Verdict::RemoteAs { .. } => {
            rank(new) > rank(old) && early
        }
        _ => rank(new) > rank(old),
    };
    if !better {
        return false;
    }
    // A backup that answers at last may be the first sign that everything does.
    let early = early && !matches!(old, Verdict::ReturnPath { .. });
    let at_once = matches!(new, Verdict::LocalLink { .. } | Verdict::TotalIsolation);
    // When everything comes back, one egress is always the first: the others have a moment as well.
    if (at_once || early) && *old != Verdict::TotalIsolation {
        return true;
    }
    match &case.rival {
        Some((rival, first)) if rival == new => now >= *first + STABLE,
        _ => {
            case.rival = Some((new.clone(), now));
            false
        }
    }
}
