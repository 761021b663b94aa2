//! Round-trip times that left their baselines, grouped by what they have in common: one peer, a
//! prefix, an AS, an egress, all.
//!
//! Opens when most peers of a class have been slow for [`SETTLE`] (one alone: [`ALONE`]) while no
//! incident says that packets are lost. Closes when most are as usual again, when a lasting shift
//! after a change of the BGP path is taken as the new baseline, or when lost packets explain it.
//! Nothing is ever rerouted for it.

mod cause;
mod group;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{
    Actor, Conclusion, EgressName, EntryKind, Evidence, EvidenceSource, Incident, IncidentState,
    LatencyCause, LatencyScope, PeerKey, RoundTrip, Signal, SignalKind, Timestamp, Verdict,
};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::correlator::{Correlator, Output};
use crate::flap::Flaps;
use crate::join::{self, Log};
use crate::tell::{entry, publish, tell_bgp};
use crate::view::View;
use cause::Uplink;
use group::{Group, Member};

/// A class must have been slow for so long, longer where it was again and again.
const SETTLE: Duration = Duration::from_secs(2);
/// One peer alone: its own uplink is its own matter.
const ALONE: Duration = Duration::from_secs(10);
/// A class smaller than an egress, whose path did not change, must be slow by so much: peers that get
/// the same traffic begin together to delay their acknowledgements (Linux: 40 ms, `TCP_DELACK_MIN`),
/// and some go on with it when the path is fast again.
const DELAYED_ACKS: Duration = Duration::from_millis(55);
/// While anything is slow it is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// A shift after a change of the path that lasts so long is the new baseline.
const LASTING: Duration = Duration::from_secs(20);
/// Most must have been as usual for so long.
const HEAL: Duration = Duration::from_secs(2);
/// Nothing was measured for so long.
const SILENCE: Duration = Duration::from_secs(60);
/// After packets were lost, and after our own route changed, times settle.
const AFTERMATH: Duration = Duration::from_secs(5);
/// What is overdue for so long is not slow but lost.
const LOST: Duration = Duration::from_secs(1);
const MAX_OPEN: usize = 4;
const MAX_SPIKES: usize = 4096;
const MAX_FLAPS: usize = 64;

/// What is slow, and the cases made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Since when each slow peer is slow.
    spikes: BTreeMap<PeerKey, Timestamp>,
    /// What the tracker told for the look that is due.
    times: Vec<RoundTrip>,
    pub cases: Vec<Slow>,
    uplinks: BTreeMap<EgressName, Uplink>,
    flaps: Vec<(LatencyScope, Flaps)>,
    look_at: Option<Timestamp>,
}

/// One incident of slowness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slow {
    pub case: Case,
    scope: LatencyScope,
    cause: LatencyCause,
    /// The baselines at the opening: they move.
    usual: BTreeMap<PeerKey, Duration>,
    /// By how much they are above them, in the median.
    rise: Duration,
    /// By how much they were at most.
    #[serde(default)]
    worst: Duration,
    measured_at: Timestamp,
}

impl Latency {
    /// Takes in a conclusion of the tracker.
    pub fn signal(&mut self, signal: &Signal) {
        match signal.kind {
            SignalKind::RttSpike { .. }
                if self.spikes.len() < MAX_SPIKES || self.spikes.contains_key(&signal.peer) =>
            {
                self.spikes.entry(signal.peer).or_insert(signal.at);
                self.look_at.get_or_insert(signal.at + SETTLE);
            }
            SignalKind::RttNormal { .. } | SignalKind::PeerDown => {
                self.spikes.remove(&signal.peer);
            }
            _ => {}
        }
    }

    /// This host sends so much through an egress.
    pub fn sending(&mut self, egress: &EgressName, bytes_per_second: u64) {
        let busy = self.cases.iter().any(|slow| slow.case.egress == *egress);
        let uplink = self.uplinks.entry(egress.clone()).or_default();
        uplink.take(bytes_per_second, busy);
    }

    pub const fn next_timeout(&self) -> Option<Timestamp> {
        self.look_at
    }

    fn due(&self, at: Timestamp) -> bool {
        self.look_at.is_some_and(|due| at >= due)
    }

    fn patience(&self, scope: &LatencyScope, now: Timestamp) -> Duration {
        let alone = matches!(scope, LatencyScope::Peer { .. });
        let flaps = self.flaps.iter().find(|(of, _)| of == scope);
        (if alone { ALONE } else { SETTLE }) * flaps.map_or(1, |(_, flaps)| flaps.patience(now))
    }

    fn ended(&mut self, scope: &LatencyScope, now: Timestamp) {
        if let Some((_, flaps)) = self.flaps.iter_mut().find(|(of, _)| of == scope) {
            flaps.healed(now);
            return;
        }
        if self.flaps.len() >= MAX_FLAPS {
            self.flaps.remove(0);
        }
        let mut flaps = Flaps::default();
        flaps.healed(now);
        self.flaps.push((scope.clone(), flaps));
    }
}

impl Slow {
    fn verdict(&self) -> Verdict {
        match self.cause {
            LatencyCause::Host => Verdict::HostStall,
            cause => Verdict::Latency {
                scope: self.scope.clone(),
                cause,
            },
        }
    }

    /// "round-trip times of 9 peers are 38 ms more".
    fn rise_text(&self) -> String {
        let of = match &self.scope {
            LatencyScope::Peer { peer } => format!("RTT to {peer} is"),
            LatencyScope::As { asn } => format!("RTT to {} peers of {asn} is", self.usual.len()),
            LatencyScope::Prefix { prefix } => {
                format!("RTT to {} peers in {prefix} is", self.usual.len())
            }
            LatencyScope::Egress { egress } => {
                format!("RTT to {} peers through {egress} is", self.usual.len())
            }
            LatencyScope::All => format!("RTT to {} peers is", self.usual.len()),
        };
        format!("{of} {} ms more", self.rise.as_millis())
    }

    /// Takes in what is measured now.
    fn measure(&mut self, times: &BTreeMap<PeerKey, RoundTrip>) {
        let mut rises = Vec::new();
        for (peer, usual) in &self.usual {
            if let Some(time) = times.get(peer) {
                self.measured_at = self.measured_at.max(time.at);
                rises.push(time.rtt.saturating_sub(*usual));
            }
        }
        rises.sort_unstable();
        if let Some(middle) = rises.get(rises.len() / 2) {
            self.rise = *middle;
            self.worst = self.worst.max(self.rise);
        }
    }

    /// What is left of the rise is what a delayed acknowledgement adds.
    fn is_back(&self, peer: &PeerKey, times: &BTreeMap<PeerKey, RoundTrip>) -> bool {
        let (Some(usual), Some(time)) = (self.usual.get(peer), times.get(peer)) else {
            return false;
        };
        let left = time.rtt.saturating_sub(*usual);
        left < DELAYED_ACKS && left * 2 < self.worst
    }

    /// Takes in more peers; returns whether any is new.
    fn join(
        &mut self,
        view: &View<'_>,
        peers: &[PeerKey],
        times: &BTreeMap<PeerKey, RoundTrip>,
    ) -> bool {
        let before = self.case.affected.len();
        for peer in peers {
            let prefix = view.prefix(peer, &self.case.egress);
            if self.case.affect(*peer, prefix)
                && let Some(time) = times.get(peer)
            {
                self.usual.insert(*peer, time.baseline);
            }
        }
        self.measure(times);
        self.case.affected.len() > before
    }

    fn evidence(
        &self,
        view: &View<'_>,
        log: &Log,
        uplink: Option<&Uplink>,
        usual: usize,
    ) -> Vec<Evidence> {
        let line = |source, text| Evidence {
            at: view.now,
            source,
            text,
            weight: None,
        };
        let others = match usual {
            0 => String::new(),
            n => format!(", {n} others of the class are as usual"),
        };
        let mut lines = vec![line(EvidenceSource::Tcp, self.rise_text() + &others)];
        let probes = cause::probes(view, self.case.onset, self.rise);
        lines.extend(probes.map(|text| line(EvidenceSource::Probe, text)));
        if let Some(text) = uplink.and_then(|uplink| uplink.text(&self.case.egress)) {
            lines.push(line(EvidenceSource::Host, text));
        }
        if let Some(cause) = cause::host(view, self.case.onset) {
            lines.push(line(EvidenceSource::Host, cause.to_string()));
        }
        if let Some(text) = cause::moved(log, &self.case, view.params) {
            lines.push(line(EvidenceSource::Bgp, text));
        }
        lines
    }
}

impl Correlator {
    /// The next [`handle_timeout`](Self::handle_timeout) groups slow peers: it wants
    /// [`round_trips`](Self::round_trips) before.
    #[must_use]
    pub fn wants_round_trips(&self, at: Timestamp) -> bool {
        self.latency.due(at)
    }

    /// Takes in what the tracker measured of each peer last.
    pub fn round_trips(&mut self, times: impl Iterator<Item = RoundTrip>) {
        self.latency.times = times.collect();
    }

    /// Looks at slow peers, when that is due.
    pub(crate) fn look_at_latency(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        if !self.latency.due(now) {
            return;
        }
        let mut latency = std::mem::take(&mut self.latency);
        let times = std::mem::take(&mut latency.times)
            .into_iter()
            .map(|time| (time.peer, time))
            .collect();
        self.moved_by_us(&mut latency, now, out);
        self.follow(&mut latency, &times, now, out);
        let members = self.members(&latency, &times, now);
        while let Some(group) = self.grouped(&latency, &members, now) {
            if !self.raise(&mut latency, group, &members, &times, now, out) {
                break;
            }
        }
        let idle = latency.spikes.is_empty() && latency.cases.is_empty();
        latency.look_at = (!idle).then(|| now + LOOK);
        self.latency = latency;
    }

    /// Peers that our own route took to another egress have another usual time there.
    fn moved_by_us(&self, latency: &mut Latency, now: Timestamp, out: &mut Vec<Output>) {
        let moved: Vec<PeerKey> = latency
            .spikes
            .iter()
            .filter(|(key, since)| {
                let peer = self.peers.map.get(key);
                let route = peer.and_then(|peer| peer.route.as_ref());
                route.is_some_and(|route| {
                    route.previous.is_some()
                        && **since <= route.changed_at + AFTERMATH
                        && now >= route.changed_at + AFTERMATH
                })
            })
            .map(|(key, _)| *key)
            .collect();
        latency.spikes.retain(|key, _| !moved.contains(key));
        if !moved.is_empty() {
            out.push(Output::Rebase { peers: moved });
        }
    }

    /// An incident of lost packets, open or just over, that explains what a peer's times do.
    fn lossy(&self, key: &PeerKey, egress: &EgressName, now: Timestamp) -> bool {
        let open = |case: &Case| {
            case.affected.contains_key(key) || (case.is_wide() && case.egress == *egress)
        };
        let over = |old: &Incident| {
            !matches!(old.verdict, Some(Verdict::None | Verdict::Latency { .. }))
                && old.resolved_at.is_some_and(|at| at + AFTERMATH >= now)
                && old.affected.contains(key)
        };
        self.cases.iter().any(open) || self.ended.iter().any(over)
    }

    /// Peers of which it is known whether they are slow.
    fn members(
        &self,
        latency: &Latency,
        times: &BTreeMap<PeerKey, RoundTrip>,
        now: Timestamp,
    ) -> Vec<Member> {
        let Some(oldest) = latency.spikes.values().min().copied() else {
            return Vec::new();
        };
        let view = self.overview(now);
        let settling = |key: &PeerKey| {
            let route = self.peers.map.get(key).and_then(|p| p.route.as_ref());
            route.is_some_and(|r| r.previous.is_some() && now < r.changed_at + AFTERMATH)
        };
        times
            .iter()
            .filter_map(|(key, time)| {
                let peer = self.peers.map.get(key)?;
                let egress = peer.egress(&self.peers.default);
                let since = latency.spikes.get(key).copied();
                let known = since.is_some() || time.at >= oldest;
                let lost = peer.failure().is_some_and(|f| now >= f.at + LOST);
                let excluded = lost
                    || peer.connections.is_empty()
                    || settling(key)
                    || self.lossy(key, egress, now);
                (known && !excluded).then(|| Member {
                    key: *key,
                    egress: egress.clone(),
                    since,
                    rise: time.rtt.saturating_sub(time.baseline),
                    prefix: view.prefix(key, egress),
                    ases: self
                        .routes
                        .path(key, egress)
                        .map(|path| path.ases.clone())
                        .unwrap_or_default(),
                })
            })
            .collect()
    }

    /// The next group that an open case does not cover yet.
    fn grouped(&self, latency: &Latency, members: &[Member], now: Timestamp) -> Option<Group> {
        let owned: BTreeSet<PeerKey> = latency
            .cases
            .iter()
            .flat_map(|slow| slow.case.affected.keys().copied())
            .collect();
        let view = self.overview(now);
        let mut rest = members.to_vec();
        while let Some(group) = group::best(&rest, |egress, onset, rise| {
            cause::anchors_rose(&view, egress, onset, rise)
        }) {
            let oldest = rest
                .iter()
                .filter(|m| group.slow.contains(&m.key) && !owned.contains(&m.key))
                .filter_map(|m| m.since)
                .min();
            let old = |since| now >= since + latency.patience(&group.scope, now);
            let rerouted = || {
                let peers = self.log.rerouted(&group.egress, oldest.unwrap_or(now));
                group.slow.iter().filter(|key| peers.contains(key)).count() * 2 > group.slow.len()
            };
            if oldest.is_some_and(old) && (group.is_clear(&rest, DELAYED_ACKS) || rerouted()) {
                return Some(group);
            }
            rest.retain(|member| !group.slow.contains(&member.key));
        }
        None
    }

    /// Opens a case of a group, or lets an open one grow to it.
    fn raise(
        &mut self,
        latency: &mut Latency,
        group: Group,
        members: &[Member],
        times: &BTreeMap<PeerKey, RoundTrip>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) -> bool {
        let shared = |slow: &Slow| {
            let inside = slow.case.affected.keys();
            inside.filter(|key| group.slow.contains(key)).count()
        };
        let within = |slow: &Slow| shared(slow) * 2 > slow.case.affected.len();
        let same = |slow: &Slow| {
            slow.scope == group.scope || within(slow) || shared(slow) * 2 > group.slow.len()
        };
        let mut slow = match latency.cases.iter().position(same) {
            Some(place) => latency.cases.remove(place),
            None if latency.cases.len() >= MAX_OPEN => return false,
            None => self.new_slow(latency, &group, members, now, out),
        };
        // One cause, one incident: narrower ones end in it.
        while let Some(place) = latency.cases.iter().position(within) {
            let mut other = latency.cases.remove(place);
            other.case.relate(slow.case.id.clone());
            let reason = format!("part of {}", slow.case.id);
            self.end_slow(latency, other, now, &reason, out);
        }
        let explains = slow.case.affected.is_empty() || within(&slow);
        let view = self.overview(now);
        let grown = slow.join(&view, &group.slow, times);
        if explains && slow.scope != group.scope || slow.case.verdict.is_none() {
            slow.scope = group.scope;
            self.name(&mut slow, latency, group.usual, now, out);
        } else {
            slow.case.publish_at.get_or_insert(now);
        }
        latency.cases.push(slow);
        grown
    }

    fn new_slow(
        &mut self,
        latency: &mut Latency,
        group: &Group,
        members: &[Member],
        now: Timestamp,
        out: &mut Vec<Output>,
    ) -> Slow {
        let since = |member: &&Member| group.slow.contains(&member.key);
        let onset = members.iter().filter(since).filter_map(|m| m.since).min();
        let onset = onset.unwrap_or(now);
        let mut case = self.new_case(now, group.egress.clone(), onset, EvidenceSource::Tcp, true);
        case.confirmed_at = Some(now);
        for other in &mut latency.cases {
            other.case.relate(case.id.clone());
            case.relate(other.case.id.clone());
        }
        let lines = [
            (
                onset,
                Actor::Correlator,
                EntryKind::Onset,
                "the first round-trip time left its baseline",
            ),
            (
                now,
                Actor::Correlator,
                EntryKind::Suspected,
                "round-trip times that left their baselines together stay there",
            ),
        ];
        for (at, actor, kind, text) in lines {
            let line = entry(&case, at, actor, kind, text.to_owned(), Vec::new());
            out.push(Output::Journal(line));
        }
        Slow {
            case,
            scope: group.scope.clone(),
            cause: LatencyCause::Unknown,
            usual: BTreeMap::new(),
            rise: Duration::ZERO,
            worst: Duration::ZERO,
            measured_at: now,
        }
    }

    /// Says what is slow and why.
    fn name(
        &self,
        slow: &mut Slow,
        latency: &Latency,
        usual: usize,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        let view = self.overview(now);
        let uplink = latency.uplinks.get(&slow.case.egress);
        if slow.cause == LatencyCause::Unknown {
            slow.cause = cause::of(&view, &self.log, &slow.case, &slow.scope, slow.rise, uplink);
        }
        if slow.cause == LatencyCause::Host {
            slow.case.cause = cause::host(&view, slow.case.onset);
        }
        let verdict = slow.verdict();
        slow.case.verdict = Some(verdict.clone());
        slow.case.verdict_at = Some(now);
        let lines = slow.evidence(&view, &self.log, uplink, usual);
        slow.case.add(lines.iter().cloned());
        slow.case.bgp = join::tally(&self.log, &slow.case, &self.params);
        slow.case.bgp_summary =
            join::summary(&slow.case.bgp, &slow.case, &self.routes, &self.params);
        let text = format!("{verdict}; {}", slow.rise_text());
        out.push(Output::Journal(entry(
            &slow.case,
            now,
            Actor::Correlator,
            EntryKind::Verdict { verdict },
            text,
            lines,
        )));
        tell_bgp(&mut slow.case, &self.log, &self.params, out);
        out.push(Output::Conclusion(Conclusion::Confirmed {
            incident: slow.case.incident(),
            bgp: slow.case.bgp_summary.clone(),
        }));
    }

    /// Follows the open cases: late evidence, the new baseline, the end.
    fn follow(
        &mut self,
        latency: &mut Latency,
        times: &BTreeMap<PeerKey, RoundTrip>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) {
        for mut slow in std::mem::take(&mut latency.cases) {
            slow.measure(times);
            if slow.case.publish_at.is_some_and(|due| now >= due) {
                slow.case.publish_at = None;
                publish(
                    &mut slow.case,
                    &self.log,
                    &self.routes,
                    &self.params,
                    now,
                    out,
                );
            }
            if slow.cause == LatencyCause::Unknown {
                let uplink = latency.uplinks.get(&slow.case.egress);
                let view = self.overview(now);
                let late = cause::of(&view, &self.log, &slow.case, &slow.scope, slow.rise, uplink);
                if late != LatencyCause::Unknown {
                    self.name(&mut slow, latency, 0, now, out);
                }
            }
            match self.over(latency, &mut slow, times, now, out) {
                Some(reason) => self.end_slow(latency, slow, now, &reason, out),
                None => latency.cases.push(slow),
            }
        }
    }

    /// Why a case is over, if it is.
    fn over(
        &self,
        latency: &mut Latency,
        slow: &mut Slow,
        times: &BTreeMap<PeerKey, RoundTrip>,
        now: Timestamp,
        out: &mut Vec<Output>,
    ) -> Option<String> {
        let affected = &slow.case.affected;
        let explains = |case: &&Case| {
            let shared = affected.keys().filter(|k| case.affected.contains_key(k));
            !matches!(case.verdict, None | Some(Verdict::None))
                && ((case.is_wide() && case.egress == slow.case.egress)
                    || shared.count() * 2 > affected.len())
        };
        if let Some(lossy) = self.cases.iter().find(explains) {
            return Some(format!("packets are lost: see {}", lossy.id));
        }
        let spiking = affected.keys().filter(|k| latency.spikes.contains_key(k));
        let (back, still): (Vec<PeerKey>, Vec<PeerKey>) =
            spiking.partition(|key| slow.is_back(key, times));
        if still.len() * 5 <= affected.len() {
            let since = *slow.case.well_since.get_or_insert(now);
            let uplink = latency.uplinks.get(&slow.case.egress);
            let idle =
                slow.cause == LatencyCause::OwnUplink && uplink.is_some_and(Uplink::is_quiet_again);
            return (now >= since + HEAL).then(|| {
                latency.spikes.retain(|key, _| !back.contains(key));
                if !back.is_empty() {
                    out.push(Output::Rebase { peers: back });
                }
                if slow.rise > Duration::from_millis(10) {
                    format!("{}; by now that is usual", slow.rise_text())
                } else if idle {
                    "round-trip times fell as this host sent less".to_owned()
                } else {
                    "round-trip times are as usual".to_owned()
                }
            });
        }
        slow.case.well_since = None;
        if now >= slow.measured_at + SILENCE {
            return Some("nothing more was measured".to_owned());
        }
        let lasting = slow.cause == LatencyCause::PathChange
            && now >= slow.case.onset + LASTING
            && still.len() * 10 >= affected.len() * 7;
        if lasting {
            let moved = cause::moved(&self.log, &slow.case, &self.params);
            latency.spikes.retain(|key, _| !still.contains(key));
            out.push(Output::Rebase { peers: still });
            return Some(format!(
                "{}{}; taken as the new baseline",
                slow.rise_text(),
                moved.map_or_else(String::new, |moved| format!(" since {moved}"))
            ));
        }
        None
    }

    fn end_slow(
        &mut self,
        latency: &mut Latency,
        mut slow: Slow,
        now: Timestamp,
        reason: &str,
        out: &mut Vec<Output>,
    ) {
        let since = slow.case.well_since.unwrap_or(now);
        slow.case.add([Evidence {
            at: now,
            source: EvidenceSource::Tcp,
            text: reason.to_owned(),
            weight: None,
        }]);
        out.push(Output::Conclusion(Conclusion::Updated {
            incident: slow.case.incident(),
            bgp: slow.case.bgp_summary.clone(),
        }));
        let mut incident = slow.case.incident();
        incident.state = IncidentState::Resolved;
        incident.resolved_at = Some(now);
        latency.ended(&slow.scope, now);
        self.remember(incident);
        out.push(Output::Journal(entry(
            &slow.case,
            now,
            Actor::Correlator,
            EntryKind::Resolved,
            reason.to_owned(),
            Vec::new(),
        )));
        out.push(Output::Conclusion(Conclusion::Healed {
            incident: slow.case.id,
            at: since,
        }));
    }
}
