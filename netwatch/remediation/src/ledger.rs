//! What probes have proven: per egress, source address and target, the newest results.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use events::{EgressName, Prefix, ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget, Timestamp};
use serde::{Deserialize, Serialize};

/// Results kept per target: half a second of probes every 20 ms, with room for a burst.
const KEPT: usize = 32;
/// Targets kept per egress and source. Results for more are not used.
const MAX_TARGETS: usize = 4096;

/// What the probes of one target since a moment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// At least one answer came, and the newest two probes are not both lost.
    Alive,
    /// At least two probes were lost, and no answer came or none of late.
    Dead,
    /// Neither.
    Untested,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Track {
    /// In the order of sending: when, and whether an answer came.
    results: VecDeque<(Timestamp, bool)>,
}

impl Track {
    fn push(&mut self, sent_at: Timestamp, ok: bool) {
        let position = self.results.partition_point(|(at, _)| *at <= sent_at);
        self.results.insert(position, (sent_at, ok));
        if self.results.len() > KEPT {
            self.results.pop_front();
        }
    }

    /// When the first of the newest results, all of them losses, was sent.
    fn silent_since(&self) -> Option<Timestamp> {
        let newest = self.results.iter().rev();
        newest.take_while(|(_, ok)| !ok).last().map(|(at, _)| *at)
    }

    /// When the newest one was sent that was answered.
    fn newest_answer(&self) -> Option<Timestamp> {
        let newest = self.results.iter().rev().find(|(_, ok)| *ok)?;
        Some(newest.0)
    }

    fn since(&self, onset: Timestamp) -> Proof {
        self.between(onset, None)
    }

    fn between(&self, onset: Timestamp, until: Option<Timestamp>) -> Proof {
        let mut newest = self
            .results
            .iter()
            .rev()
            .skip_while(|(at, _)| until.is_some_and(|until| *at > until))
            .take_while(|(at, _)| *at > onset)
            .map(|(_, ok)| *ok);
        match (newest.next(), newest.next()) {
            (None, _) | (Some(false), None) => Proof::Untested,
            // The newest of old ones decides: it is no straggler.
            (Some(false), Some(true)) if until.is_some() => Proof::Untested,
            (Some(true), _) | (Some(false), Some(true)) => Proof::Alive,
            (Some(false), Some(false)) => Proof::Dead,
        }
    }
}

type Targets = BTreeMap<IpAddr, Track>;

/// Probe results, bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// By egress, flow source address and target (anchors and suspects).
    flow: BTreeMap<EgressName, BTreeMap<IpAddr, Targets>>,
    /// By egress and target: what probes from the uplink's own address say.
    link: BTreeMap<EgressName, Targets>,
    /// By egress and gateway, whatever the source.
    gateways: BTreeMap<EgressName, Targets>,
}

impl Ledger {
    /// Keeps a result.
    pub fn record(&mut self, probe: &ProbeResult) {
        let target = probe.target.address();
        let targets = match (probe.target, probe.source) {
            (ProbeTarget::Gateway(_), _) => self.gateways.entry(probe.egress.clone()).or_default(),
            (_, ProbeSource::Link) => self.link.entry(probe.egress.clone()).or_default(),
            (_, ProbeSource::Flow) => self
                .flow
                .entry(probe.egress.clone())
                .or_default()
                .entry(probe.source_address)
                .or_default(),
        };
        if targets.len() >= MAX_TARGETS && !targets.contains_key(&target) {
            return;
        }
        let ok = matches!(probe.outcome, ProbeOutcome::Reply { .. });
        targets.entry(target).or_default().push(probe.sent_at, ok);
    }

    /// What probes of a target from the flows' own source say, of those sent after `onset`.
    #[must_use]
    pub fn flow(
        &self,
        egress: &EgressName,
        source: IpAddr,
        target: IpAddr,
        onset: Timestamp,
    ) -> Proof {
        self.flow
            .get(egress)
            .and_then(|sources| sources.get(&source))
            .and_then(|targets| targets.get(&target))
            .map_or(Proof::Untested, |track| track.since(onset))
    }

    /// Every target probed from a flow source through an egress after `onset` (and not after
    /// `until`), with what came of it.
    pub fn flow_targets<'a>(
        &'a self,
        egress: &EgressName,
        source: IpAddr,
        onset: Timestamp,
        until: Option<Timestamp>,
    ) -> impl Iterator<Item = (IpAddr, Proof)> + 'a {
        self.flow
            .get(egress)
            .and_then(|sources| sources.get(&source))
            .into_iter()
            .flatten()
            .map(move |(target, track)| (*target, track.between(onset, until)))
            .filter(|(_, proof)| *proof != Proof::Untested)
    }

    /// A probe of a target that was sent in that time was answered.
    pub(crate) fn answered_between(
        &self,
        egress: &EgressName,
        source: IpAddr,
        target: IpAddr,
        from: Timestamp,
        until: Timestamp,
    ) -> bool {
        let sources = self.flow.get(egress);
        let track = sources.and_then(|s| s.get(&source)?.get(&target));
        track.is_some_and(|track| {
            let mut results = track.results.iter();
            results.any(|(at, ok)| *ok && *at >= from && *at <= until)
        })
    }

    /// When the newest probe of a target with that source was sent that was answered.
    pub(crate) fn answered(
        &self,
        egress: &EgressName,
        source: IpAddr,
        target: IpAddr,
    ) -> Option<Timestamp> {
        let track = self.flow.get(egress)?.get(&source)?.get(&target)?;
        track.newest_answer()
    }

    /// A target in `prefix` answers the uplink's own address through an egress, by what was sent
    /// after `onset`.
    pub(crate) fn link_answers(
        &self,
        egress: &EgressName,
        prefix: Prefix,
        onset: Timestamp,
    ) -> bool {
        let targets = self.link.get(egress).into_iter().flatten();
        targets
            .filter(|(target, _)| prefix.contains(*target))
            .any(|(_, track)| track.since(onset) == Proof::Alive)
    }

    /// It used to answer of late, and the newest two probes are lost.
    pub(crate) fn fell_silent(&self, egress: &EgressName, source: IpAddr, target: IpAddr) -> bool {
        self.flow
            .get(egress)
            .and_then(|sources| sources.get(&source))
            .and_then(|targets| targets.get(&target))
            .is_some_and(|track| {
                track.since(Timestamp::ZERO) == Proof::Dead && track.newest_answer().is_some()
            })
    }

    /// The egress carries packets out and back for its own address: some link-source probe sent
    /// after `onset` was answered.
    #[must_use]
    pub fn link_alive(&self, egress: &EgressName, onset: Timestamp) -> bool {
        self.link
            .get(egress)
            .into_iter()
            .flatten()
            .any(|(_, track)| track.since(onset) == Proof::Alive)
    }

    /// The egress's gateway did not answer the newest probes sent after `onset`, and nothing beyond
    /// it answered what was sent since: many gateways forward and answer no probe. One that is not
    /// probed, or not since, is not called dead: what answers beyond it proves it.
    #[must_use]
    pub fn gateway_dead(&self, egress: &EgressName, gateway: IpAddr, onset: Timestamp) -> bool {
        let track = self
            .gateways
            .get(egress)
            .and_then(|targets| targets.get(&gateway));
        let silent_since = track
            .filter(|track| track.since(onset) == Proof::Dead)
            .and_then(Track::silent_since);
        silent_since.is_some_and(|silent| {
            let beyond = self.link.get(egress).into_iter().flatten();
            !beyond
                .filter(|(target, _)| target.is_ipv4() == gateway.is_ipv4())
                .filter_map(|(_, track)| track.newest_answer())
                .any(|at| at > silent)
        })
    }

    /// Of all flow-source probes through an egress from `source` sent after `since`: how many were
    /// answered, and how many were made.
    #[must_use]
    pub fn flow_count(
        &self,
        egress: &EgressName,
        source: IpAddr,
        since: Timestamp,
    ) -> (usize, usize) {
        self.flow
            .get(egress)
            .and_then(|sources| sources.get(&source))
            .into_iter()
            .flatten()
            .flat_map(|(_, track)| track.results.iter())
            .filter(|(at, _)| *at > since)
            .fold((0, 0), |(ok, all), (_, answered)| {
                (ok + usize::from(*answered), all + 1)
            })
    }

    /// Forgets targets without a result newer than `age`.
    pub fn forget(&mut self, now: Timestamp, age: Duration) {
        let fresh = |_: &IpAddr, track: &mut Track| {
            track
                .results
                .back()
                .is_some_and(|(at, _)| now.since(*at) < age)
        };
        for sources in self.flow.values_mut() {
            for targets in sources.values_mut() {
                targets.retain(fresh);
            }
            sources.retain(|_, targets| !targets.is_empty());
        }
        for targets in self.link.values_mut().chain(self.gateways.values_mut()) {
            targets.retain(fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(ms: u64, ok: bool, source: ProbeSource) -> ProbeResult {
        ProbeResult {
            sent_at: Timestamp::from_millis(ms),
            egress: "b".into(),
            target: ProbeTarget::Anchor("203.0.113.1".parse().unwrap()),
            source,
            source_address: "198.51.100.10".parse().unwrap(),
            outcome: if ok {
                ProbeOutcome::Reply {
                    rtt: Duration::from_millis(1),
                }
            } else {
                ProbeOutcome::Lost
            },
        }
    }

    fn verdict(results: &[(u64, bool)]) -> Proof {
        let mut ledger = Ledger::default();
        for (ms, ok) in results {
            ledger.record(&probe(*ms, *ok, ProbeSource::Flow));
        }
        ledger.flow(
            &"b".into(),
            "198.51.100.10".parse().unwrap(),
            "203.0.113.1".parse().unwrap(),
            Timestamp::from_millis(100),
        )
    }

    #[test]
    fn only_probes_sent_after_the_onset_count() {
        assert_eq!(verdict(&[]), Proof::Untested);
        assert_eq!(verdict(&[(50, true), (100, true)]), Proof::Untested);
        assert_eq!(verdict(&[(50, true), (101, true)]), Proof::Alive);
        assert_eq!(verdict(&[(101, false)]), Proof::Untested);
        assert_eq!(verdict(&[(101, false), (102, false)]), Proof::Dead);
        assert_eq!(verdict(&[(101, true), (102, false)]), Proof::Alive);
        assert_eq!(
            verdict(&[(101, true), (102, false), (103, false)]),
            Proof::Dead
        );
        // Losses are known later than answers.
        assert_eq!(
            verdict(&[(103, true), (101, false), (102, false)]),
            Proof::Alive
        );
    }

    #[test]
    fn a_gateway_that_forwards_is_not_dead_for_answering_no_probe() {
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        let with_anchor_answers = |answers: &[u64]| {
            let mut ledger = Ledger::default();
            for ms in [101, 121, 141] {
                let mut lost = probe(ms, false, ProbeSource::Link);
                lost.target = ProbeTarget::Gateway(gateway);
                ledger.record(&lost);
            }
            for ms in answers {
                ledger.record(&probe(*ms, true, ProbeSource::Link));
            }
            ledger.gateway_dead(&"b".into(), gateway, Timestamp::from_millis(100))
        };
        assert!(with_anchor_answers(&[]));
        assert!(with_anchor_answers(&[100]), "before it fell silent");
        assert!(!with_anchor_answers(&[110]));
    }

    #[test]
    fn the_links_own_address_proves_nothing_for_flows() {
        let mut ledger = Ledger::default();
        ledger.record(&probe(101, true, ProbeSource::Link));
        let egress = "b".into();
        let onset = Timestamp::from_millis(100);
        assert!(ledger.link_alive(&egress, onset));
        assert_eq!(
            ledger.flow(
                &egress,
                "198.51.100.10".parse().unwrap(),
                "203.0.113.1".parse().unwrap(),
                onset
            ),
            Proof::Untested
        );
    }
}
