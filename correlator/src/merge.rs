//! One incident per cause: a peer called dead alone turns out to be one of many.

use std::collections::BTreeMap;

use events::{PeerKey, Prefix, Timestamp, Verdict};

use crate::case::Case;
use crate::correlator::{Correlator, Output, PUBLISH_DELAY};

impl Correlator {
    /// The case with a larger verdict that names a peer, or its prefix or AS, for which another case would
    /// be of that peer alone.
    pub(crate) fn larger(&self, single: &Case, peer: PeerKey) -> Option<usize> {
        self.cases.iter().position(|case| {
            let names = case.affected.contains_key(&peer);
            let named = match &case.verdict {
                Some(Verdict::Prefix { prefix }) => names || prefix.contains(&peer.0),
                Some(Verdict::RemoteAs { asn }) => {
                    let path = self.routes.path(&peer, &case.egress);
                    names || path.is_some_and(|path| path.ases.contains(asn))
                }
                verdict => verdict.is_some() && case.is_wide(),
            };
            let same = case.egress == single.egress && case.onset <= single.onset + CLUSTER;
            case.number != single.number && named && same
        })
    }

    /// A case takes in peers of a smaller one.
    pub(crate) fn take_in(
        &mut self,
        place: usize,
        peers: impl IntoIterator<Item = (PeerKey, Prefix)>,
        now: Timestamp,
    ) {
        let Some(case) = self.cases.get_mut(place) else {
            return;
        };
        for (peer, prefix) in peers {
            if case.affect(peer, prefix) {
                case.failed.insert(peer);
                case.publish_at.get_or_insert(now + PUBLISH_DELAY);
            }
        }
    }

    /// A larger verdict takes in the case of a single peer. Nothing was rerouted for that one, so
    /// nothing is taken back.
    pub(crate) fn merge(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let found = self.cases.iter().enumerate().find_map(|(place, single)| {
            let Some(Verdict::SinglePeer { peer }) = single.verdict else {
                return None;
            };
            Some((place, self.larger(single, peer)?))
        });
        let Some((place, larger)) = found else {
            return;
        };
        let id = |place: usize| self.cases.get(place).map(|case| case.id.clone());
        let (Some(single), Some(id)) = (id(place), id(larger)) else {
            return;
        };
        let peers: BTreeMap<PeerKey, Prefix> = self
            .cases
            .get(place)
            .map(|case| case.affected.clone())
            .unwrap_or_default();
        self.take_in(larger, peers, now);
        if let Some(case) = self.cases.get_mut(larger) {
            case.relate(single);
        }
        if let Some(case) = self.cases.get_mut(place) {
            case.relate(id.clone());
        }
        self.end(place, now, &format!("part of {id}"), false, out);
    }
}

/// What began within this of the other is of one cause.
const CLUSTER: std::time::Duration = std::time::Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use events::EvidenceSource;

    use super::*;
    use crate::params::{Params, Thresholds};

    #[test]
    fn a_verdict_on_a_prefix_takes_in_the_peer_of_it_that_fails_later() {
        let mut correlator = Correlator::new(Params {
            run_id: "run".into(),
            egresses: Vec::new(),
            anchors: Vec::new(),
            flow_sources: Vec::new(),
            local_as: None,
            probes: true,
            thresholds: Thresholds::default(),
        });
        let prefix: Prefix = "203.0.113.0/24".parse().expect("a prefix");
        let at = Timestamp::from_millis;
        for (address, seen) in [("203.0.113.7", 1_500), ("198.51.100.7", 1_500)] {
            let peer = PeerKey(address.parse().expect("an address"));
            correlator.cases.clear();
            for (onset, verdict) in [
                (1_000, Verdict::Prefix { prefix }),
                (seen, Verdict::SinglePeer { peer }),
            ] {
                let source = EvidenceSource::Tcp;
                let mut case = correlator.new_case(at(seen), "a".into(), at(onset), source, true);
                if verdict.class() == "single_peer" {
                    case.affect(peer, prefix);
                }
                case.verdict = Some(verdict);
                correlator.cases.push(case);
            }
            let mut out = Vec::new();
            correlator.merge(at(seen), &mut out);
            let merged = correlator.cases.len() == 1;
            assert_eq!(merged, address == "203.0.113.7", "{address}");
            assert_eq!(correlator.cases[0].affected.contains_key(&peer), merged);
        }
    }
}
