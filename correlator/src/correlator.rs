//! The state, its inputs and its outputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{
    BgpSignal, Conclusion, EgressName, Entry, FibChange, HostSignal, Incident, PeerKey,
    ProbeRequest, ProbeResult, ProbeSource, Signal, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::ask::{flow_sources, neighbors, suspects};
use crate::case::Case;
use crate::flap::Flaps;
use crate::host::Host;
use crate::join::Log;
use crate::late::Late;
use crate::latency::Latency;
use crate::params::Params;
use crate::peers::Peers;
use crate::reach::Reach;
use crate::routes::Routes;
use crate::suspicion;
use crate::tell::publish;
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
pub(crate) const PUBLISH_DELAY: Duration = Duration::from_millis(50);
/// Housekeeping.
const FORGET_TICK: Duration = Duration::from_secs(30);

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
    /// The newest round-trip times of these peers are their baselines from now on.
    Rebase {
        /// Whose.
        peers: Vec<PeerKey>,
    },
}

/// Signals in, verdicts out.
///
/// Call [`handle_timeout`](Self::handle_timeout) when [`next_timeout`](Self::next_timeout) has come;
/// `at` never decreases from call to call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlator {
    pub(crate) params: Params,
    pub(crate) peers: Peers,
    pub(crate) routes: Routes,
    pub(crate) reach: Reach,
    pub(crate) host: Host,
    pub(crate) log: Log,
    pub(crate) cases: Vec<Case>,
    pub(crate) ended: VecDeque<Incident>,
    pub(crate) next_number: u64,
    pub(crate) dismissed: BTreeMap<EgressName, Timestamp>,
    pub(crate) flaps: BTreeMap<EgressName, Flaps>,
    #[serde(default)]
    pub(crate) latency: Latency,
    #[serde(default)]
    pub(crate) late: Late,
    pub(crate) dirty: bool,
    /// A peer may fail that no suspicion was dismissed about.
    pub(crate) failing: bool,
    pub(crate) evaluated_at: Option<Timestamp>,
    pub(crate) watch_at: Option<Timestamp>,
    pub(crate) forget_at: Timestamp,
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
            flaps: BTreeMap::new(),
            latency: Latency::default(),
            late: Late::default(),
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
        self.latency.signal(signal);
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
            BgpSignal::Burst(burst) => self.log.burst(at, burst),
            // Of a collector far away nothing follows for the egress.
            BgpSignal::SessionDown {
                neighbor, egress, ..
            } if !neighbor.is_elsewhere() => {
                self.log.session_lost(at, egress, *neighbor);
            }
            _ => {}
        }
        self.routes.signal(signal);
        let tells = matches!(
            signal,
            BgpSignal::Change(_) | BgpSignal::Burst(_) | BgpSignal::SessionDown { .. }
        );
        if tells {
            let slow = self.latency.cases.iter_mut().map(|slow| &mut slow.case);
            for case in self.cases.iter_mut().chain(slow) {
                if case.verdict.is_some() && self.log.newest_of(case, &self.params) {
                    case.publish_at.get_or_insert(at + PUBLISH_DELAY);
                }
            }
            self.late.bgp(at, &self.log, &self.params);
        }
        self.dirty |= self.suspecting();
    }

    /// Takes in a finished probe.
    pub fn probe(&mut self, _at: Timestamp, result: &ProbeResult) {
        let lost = self.reach.record(result);
        self.dirty |= lost || !self.cases.is_empty();
    }

    /// The next [`handle_timeout`](Self::handle_timeout) weighs evidence: it wants to know before
    /// whom [`delivered`](Self::delivered).
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

    /// Takes in when each peer was last sent new data that it acknowledged, in the order of their
    /// addresses.
    pub fn delivered(&mut self, peers: impl Iterator<Item = (PeerKey, Timestamp)>) {
        self.peers.delivered(peers);
    }

    /// Takes in the kernel's way to a peer.
    pub fn fib(&mut self, at: Timestamp, change: &FibChange) {
        self.dirty |= self.peers.fib(at, change).evidence;
    }

    /// Takes in the health of this host.
    pub fn host(&mut self, at: Timestamp, signal: &HostSignal) {
        if let HostSignal::Sending { egress, rate } = signal {
            self.latency.sending(egress, *rate);
            return;
        }
        let veto = self.params.thresholds.lag_veto;
        if let Some(stall) = self.host.signal(at, signal, veto) {
            self.peers.veto_since(stall.from);
            self.reach.blind(Host::blind_from(&stall), stall.until);
        }
        self.dirty = true;
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, at: Timestamp, out: &mut Vec<Output>) {
        // Before the list is told: who comes back after it is new on the next one.
        if at >= self.forget_at {
            self.forget_at = at + FORGET_TICK;
            self.forget(at);
        }
        if self.watch_at.is_some_and(|due| at >= due) {
            self.watch_at = None;
            self.watch(out);
        }
        if self.evaluation_due().is_some_and(|due| at >= due) {
            self.evaluate(at, out);
        }
        self.look_at_latency(at, out);
        self.tell_late(at, out);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        [
            self.watch_at,
            self.evaluation_due(),
            self.latency.next_timeout(),
            self.late.next_timeout(),
            Some(self.forget_at),
        ]
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
            .chain(self.latency.cases.iter().map(|slow| slow.case.incident()))
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

    pub(crate) fn owners(&self) -> BTreeMap<PeerKey, u64> {
        let mut owners = BTreeMap::new();
        for case in &self.cases {
            for key in case.affected.keys().chain(&case.failed) {
                owners.entry(*key).or_insert(case.number);
            }
        }
        owners
    }

    pub(crate) fn view<'a>(
        &'a self,
        now: Timestamp,
        owners: &'a BTreeMap<PeerKey, u64>,
    ) -> View<'a> {
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

    /// A view for questions that do not ask which case owns a peer.
    pub(crate) fn overview(&self, now: Timestamp) -> View<'_> {
        const NOBODY: &BTreeMap<PeerKey, u64> = &BTreeMap::new();
        self.view(now, NOBODY)
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
        self.merge(now, out);
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
            for target in &targets {
                case.asked.entry(*target).or_insert(now);
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
