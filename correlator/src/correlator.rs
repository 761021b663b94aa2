//! The state, its inputs and its outputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{
    Actor, BgpSignal, Conclusion, EgressName, Entry, EntryKind, EvidenceSource, FibChange,
    HostSignal, Incident, IncidentId, IncidentState, PeerKey, Prefix, ProbeRequest, ProbeResult,
    ProbeSource, Signal, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::ask::{flow_sources, neighbors, suspects};
use crate::case::{Case, egress_of, rank};
use crate::diagnosis::{self, Finding};
use crate::heal::{self, Health};
use crate::host::Host;
use crate::join::{self, Log};
use crate::params::Params;
use crate::peers::Peers;
use crate::reach::Reach;
use crate::routes::Routes;
use crate::story;
use crate::suspicion::{self, Suspicion};
use crate::tell::{entry, first_text, onset_text, publish, tell_bgp};
use crate::view::View;

/// Evidence that comes at once is judged at once, what follows together.
const COALESCE: Duration = Duration::from_millis(2);
/// With confirmed cases only, nothing is that urgent.
const CALM: Duration = Duration::from_millis(50);
/// While suspicion is open, conditions of time are looked at so often.
const SUSPECTED_TICK: Duration = Duration::from_millis(10);
/// While an incident is open, healing is looked at so often.
const OPEN_TICK: Duration = Duration::from_millis(100);
/// While anything fails that no case owns.
const FAILING_TICK: Duration = Duration::from_millis(50);
/// Changes of who is watched are told together.
const WATCH_DELAY: Duration = Duration::from_millis(50);
/// Addresses watched at most.
const MAX_WATCHED: usize = 8192;
/// Updates of an incident are told together.
const PUBLISH_DELAY: Duration = Duration::from_millis(50);
/// Housekeeping.
const FORGET_TICK: Duration = Duration::from_secs(30);
/// An incident that ended so long ago may have to do with a new one ...
const RELATED: Duration = Duration::from_secs(10);
/// ... and one of the same egress longer.
const RELATED_SAME: Duration = Duration::from_secs(300);
/// Ended incidents remembered.
const MAX_ENDED: usize = 16;
/// A verdict of small scope may become one of a larger scope for so long.
const UPGRADE: Duration = Duration::from_secs(1);
/// After that another verdict must hold for so long to replace the first.
const STABLE: Duration = Duration::from_millis(800);

/// What the correlator asks for or tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // Few, and gone at once.
pub enum Output {
    /// A step in an incident's life.
    Conclusion(Conclusion),
    /// Probe suspects.
    Probe(ProbeRequest),
    /// Watch these addresses, all of them and no others, in RIB and FIB.
    Watch {
        /// Peers and anchors, with the flows' source address where it is known.
        peers: Vec<(PeerKey, Option<IpAddr>)>,
    },
    /// A line of a timeline.
    Journal(Entry),
}

/// Signals in, verdicts out.
///
/// Call [`handle_timeout`](Self::handle_timeout) when [`next_timeout`](Self::next_timeout) has come;
/// `at` never decreases from call to call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlator {
    params: Params,
    peers: Peers,
    routes: Routes,
    reach: Reach,
    host: Host,
    log: Log,
    cases: Vec<Case>,
    ended: VecDeque<Incident>,
    next_number: u64,
    dismissed: BTreeMap<EgressName, Timestamp>,
    dirty: bool,
    /// A peer may fail that no suspicion was dismissed about.
    failing: bool,
    evaluated_at: Option<Timestamp>,
    watch_at: Option<Timestamp>,
    forget_at: Timestamp,
}

impl Correlator {
    /// A correlator that knows nothing yet. Its first timeout is due at once: it asks to watch
    /// the anchors.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let default = params
            .egresses
            .first()
            .map_or_else(|| EgressName::from("default"), |e| e.name.clone());
        Self {
            peers: Peers::new(default),
            routes: Routes::new(params.local_as),
            reach: Reach::default(),
            host: Host::default(),
            log: Log::default(),
            cases: Vec::new(),
            ended: VecDeque::new(),
            next_number: 1,
            dismissed: BTreeMap::new(),
            dirty: false,
            failing: false,
            evaluated_at: None,
            watch_at: Some(Timestamp::ZERO),
            forget_at: Timestamp::ZERO,
            params,
        }
    }

    /// What it goes by.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Goes by something else from now on; what was learned stays.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// Takes in a conclusion of the tracker.
    ///
    /// What follows from it, as from all other evidence, comes with the next
    /// [`handle_timeout`](Self::handle_timeout), which is due at once: evidence at hand is judged
    /// together.
    pub fn signal(&mut self, at: Timestamp, signal: &Signal) {
        let vetoed = self.host.vetoed(signal.at);
        let change = self.peers.signal(signal, vetoed);
        if change.membership {
            self.watch_at.get_or_insert(at + WATCH_DELAY);
        }
        if change.evidence {
            self.dirty = true;
            self.failing = true;
        }
    }

    /// Takes in a signal of the BGP feed.
    pub fn bgp(&mut self, at: Timestamp, signal: &BgpSignal) {
        match signal {
            BgpSignal::Change(change) => self.log.change(at, change, &self.routes),
            BgpSignal::SessionDown {
                neighbor, egress, ..
            } => self.log.session_lost(at, egress, *neighbor),
            _ => {}
        }
        self.routes.signal(signal);
        if matches!(signal, BgpSignal::Change(_) | BgpSignal::SessionDown { .. }) {
            for case in &mut self.cases {
                if case.verdict.is_some() && self.log.newest_of(case, &self.params) {
                    case.publish_at.get_or_insert(at + PUBLISH_DELAY);
                }
            }
        }
        self.dirty |= self.suspecting();
    }

    /// Takes in a finished probe.
    pub fn probe(&mut self, _at: Timestamp, result: &ProbeResult) {
        let lost = self.reach.record(result);
        self.dirty |= lost || !self.cases.is_empty();
    }

    /// The next [`handle_timeout`](Self::handle_timeout) weighs evidence: it wants to know before
    /// whom [`acknowledged`](Self::acknowledged).
    #[must_use]
    pub fn weighs(&self, at: Timestamp) -> bool {
        (self.failing || !self.cases.is_empty())
            && self.evaluation_due().is_some_and(|due| at >= due)
    }

    /// Something may be broken: it helps to know of those who go on as usual.
    #[must_use]
    pub fn attentive(&self) -> bool {
        self.failing || self.suspecting()
    }

    /// Takes in when each peer last acknowledged new data, in the order of their addresses.
    pub fn acknowledged(&mut self, peers: impl Iterator<Item = (PeerKey, Timestamp)>) {
        self.peers.acknowledged(peers);
    }

    /// Takes in the kernel's way to a peer.
    pub fn fib(&mut self, at: Timestamp, change: &FibChange) {
        self.dirty |= self.peers.fib(at, change).evidence;
    }

    /// Takes in the health of this host.
    pub fn host(&mut self, at: Timestamp, signal: &HostSignal) {
        let veto = self.params.thresholds.lag_veto;
        if let Some(stall) = self.host.signal(at, signal, veto) {
            self.peers.veto_since(stall.from);
            self.reach.blind(Host::blind_from(&stall), stall.until);
        }
        self.dirty = true;
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        if self.watch_at.is_some_and(|due| at >= due) {
            self.watch_at = None;
            self.watch(out);
        }
        if at >= self.forget_at {
            self.forget_at = at + FORGET_TICK;
            self.forget(at);
        }
        if self.evaluation_due().is_some_and(|due| at >= due) {
            self.evaluate(at, out);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        [self.watch_at, self.evaluation_due(), Some(self.forget_at)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Open incidents and the last few that ended, oldest first.
    #[must_use]
    pub fn incidents(&self) -> Vec<Incident> {
        self.ended
            .iter()
            .cloned()
            .chain(self.cases.iter().map(Case::incident))
            .collect()
    }

    /// Peers, connections and BGP changes not followed because there were too many, and
    /// observations that earlier stages reported as lost.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.peers.dropped + self.log.dropped + self.host.lost
    }

    fn suspecting(&self) -> bool {
        self.cases.iter().any(|c| c.verdict.is_none())
    }

    fn evaluation_due(&self) -> Option<Timestamp> {
        let last = self.evaluated_at;
        let after = |pause| last.map_or(Timestamp::ZERO, |at| at + pause);
        let calm = !self.cases.is_empty() && !self.suspecting();
        let dirty = self
            .dirty
            .then(|| after(if calm { CALM } else { COALESCE }));
        let tick = if self.suspecting() {
            Some(after(SUSPECTED_TICK))
        } else if !self.cases.is_empty() {
            Some(after(OPEN_TICK))
        } else if self.failing {
            Some(after(FAILING_TICK))
        } else {
            None
        };
        let stall = self.host.stall.filter(|s| !s.over).map(|s| s.until);
        dirty.into_iter().chain(tick).chain(stall).min()
    }

    fn anything_failing(&self) -> bool {
        self.peers
            .map
            .values()
            .any(|p| p.failure().is_some_and(|f| !f.dismissed))
    }

    fn owners(&self) -> BTreeMap<PeerKey, u64> {
        let mut owners = BTreeMap::new();
        for case in &self.cases {
            for key in case.affected.keys().chain(&case.failed) {
                owners.entry(*key).or_insert(case.number);
            }
        }
        owners
    }

    fn view<'a>(&'a self, now: Timestamp, owners: &'a BTreeMap<PeerKey, u64>) -> View<'a> {
        View {
            now,
            params: &self.params,
            peers: &self.peers,
            routes: &self.routes,
            reach: &self.reach,
            host: &self.host,
            dismissed: &self.dismissed,
            owners,
        }
    }

    fn evaluate(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        self.dirty = false;
        self.evaluated_at = Some(now);
        self.failing = self.anything_failing();
        if let Some(stall) = &mut self.host.stall
            && !stall.over
            && now >= stall.until
        {
            stall.over = true;
            self.peers.lift_veto(now);
        }
        for index in 0..self.cases.len() {
            self.rediagnose(index, now, out);
        }
        while self.cases.len() < self.params.thresholds.max_open {
            let owners = self.owners();
            let Some(found) = suspicion::suspect(&self.view(now, &owners), &self.cases) else {
                break;
            };
            self.open(now, found, out);
            self.rediagnose(self.cases.len() - 1, now, out);
        }
        self.absorb(now, out);
        self.name_causes(now, out);
        self.settle(now, out);
        for case in &mut self.cases {
            if case.publish_at.is_some_and(|due| now >= due) {
                case.publish_at = None;
                publish(case, &self.log, &self.routes, &self.params, now, out);
            }
        }
        self.ask(now, out);
    }

    /// Opens a case.
    fn open(&mut self, now: Timestamp, found: Suspicion, out: &mut Vec<Output>) {
        let number = self.next_number;
        self.next_number += 1;
        let mut case = Case {
            number,
            id: IncidentId(format!("{}-{number}", self.params.run_id)),
            egress: found.egress.clone(),
            onset: found.onset,
            suspected_at: now,
            confirmed_at: None,
            verdict: None,
            verdict_at: None,
            rival: None,
            first_evidence: found.source,
            narrow: found.narrow,
            evidence: Vec::new(),
            affected: BTreeMap::new(),
            failed: found.failed.iter().copied().collect(),
            bgp: Default::default(),
            bgp_summary: Default::default(),
            bgp_told: 0,
            bgp_lines: 0,
            publish_at: None,
            probe_at: Some(now),
            cause: None,
            related: self.relatives(&found.egress, found.onset),
            well_since: None,
            bad_at: now,
        };
        let mut owners = self.owners();
        for key in &case.failed {
            owners.insert(*key, number);
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
        for other in &mut self.cases {
            other.related.push(case.id.clone());
        }
        self.cases.push(case);
    }

    /// Asks the diagnoses about a case and takes their answer where it is better.
    fn rediagnose(&mut self, index: usize, now: Timestamp, out: &mut Vec<Output>) {
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
        let same = case.verdict.as_ref() == Some(&verdict);
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
        case.bgp_summary = join::summary(&case.bgp, case, &self.routes);
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
    fn name_causes(&mut self, now: Timestamp, out: &mut Vec<Output>) {
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
    fn relatives(&self, egress: &EgressName, onset: Timestamp) -> Vec<IncidentId> {
        let lately = self.ended.iter().filter(|old| {
            let same = old.verdict.as_ref().and_then(egress_of) == Some(egress);
            let pause = if same { RELATED_SAME } else { RELATED };
            old.verdict != Some(Verdict::None)
                && old.resolved_at.is_some_and(|at| at + pause >= onset)
        });
        let mut ids: Vec<IncidentId> = lately.map(|old| old.id.clone()).collect();
        ids.extend(self.cases.iter().map(|case| case.id.clone()));
        ids
    }

    /// A wide verdict takes in suspicions that are still open on the same egress.
    fn absorb(&mut self, now: Timestamp, out: &mut Vec<Output>) {
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
    fn settle(&mut self, now: Timestamp, out: &mut Vec<Output>) {
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
            let patience = if dark { t.give_up * 4 } else { t.give_up };
            let reason = if case.verdict.is_none() {
                (now >= case.suspected_at + patience).then_some("no fault found")
            } else if case.well_since.is_some_and(|since| now >= since + t.heal) {
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

    fn end(
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
        }
        let since = case.well_since.unwrap_or(now);
        let mut incident = case.incident();
        incident.state = IncidentState::Resolved;
        incident.resolved_at = Some(now);
        incident.verdict.get_or_insert(Verdict::None);
        self.ended.push_back(incident);
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_front();
        }
        out.push(Output::Journal(entry(
            &case,
            now,
            Actor::Correlator,
            EntryKind::Resolved,
            reason.to_owned(),
            lines,
        )));
        out.push(Output::Conclusion(Conclusion::Healed {
            incident: case.id,
            at: since,
        }));
    }

    /// Asks for probes of suspects.
    fn ask(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if !self.params.probes || self.params.egresses.is_empty() {
            return;
        }
        let owners = self.owners();
        let others: Vec<Vec<IpAddr>> = self
            .cases
            .iter()
            .map(|case| neighbors(&self.view(now, &owners), case))
            .collect();
        for (case, others) in self.cases.iter_mut().zip(others) {
            if case.probe_at.is_none_or(|due| now < due) {
                continue;
            }
            let first = case.suspected_at == now;
            let old = now.since(case.suspected_at) > Duration::from_secs(30);
            let pause = Duration::from_millis(if old { 2000 } else { 500 });
            case.probe_at = Some(now + pause);
            let targets = suspects(case, others);
            if targets.is_empty() {
                continue;
            }
            let flow_sources = flow_sources(&self.params, &self.peers, &targets);
            let mut sources = vec![ProbeSource::Link];
            if !flow_sources.is_empty() {
                sources.push(ProbeSource::Flow);
            }
            out.push(Output::Probe(ProbeRequest {
                targets,
                flow_sources,
                egresses: self
                    .params
                    .egresses
                    .iter()
                    .map(|e| e.name.clone())
                    .collect(),
                sources,
                count: if first { 3 } else { 1 },
                spacing: Duration::from_millis(15),
            }));
        }
    }

    fn watch(&self, out: &mut Vec<Output>) {
        let mut peers: BTreeMap<PeerKey, Option<IpAddr>> = BTreeMap::new();
        for (address, _) in &self.params.anchors {
            let source = self
                .params
                .flow_sources
                .iter()
                .find(|s| s.is_ipv4() == address.is_ipv4());
            peers.insert(PeerKey(*address), source.copied());
        }
        for (key, peer) in &self.peers.map {
            if peers.len() >= MAX_WATCHED {
                break;
            }
            peers.insert(*key, peer.source);
        }
        out.push(Output::Watch {
            peers: peers.into_iter().collect(),
        });
    }

    fn forget(&mut self, now: Timestamp) {
        let owners = self.owners();
        if self.peers.forget(|key| owners.contains_key(key)) {
            self.watch_at.get_or_insert(now);
        }
        let mut watched: BTreeSet<PeerKey> = self.peers.map.keys().copied().collect();
        watched.extend(self.params.anchors.iter().map(|(a, _)| PeerKey(*a)));
        self.routes.retain(&watched);
        self.reach.forget(now - Duration::from_secs(60));
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
    let at_once = matches!(new, Verdict::LocalLink { .. } | Verdict::TotalIsolation);
    if at_once || (early && *old != Verdict::TotalIsolation) {
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
