//! What is known of routes: the kernel's and the routers'.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use events::{
    Asn, BgpSignal, EgressName, FibChange, FibRoute, HostSignal, NeighborId, PeerKey, Prefix,
    ProbeResult, RouteAttributes, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{Ledger, Policy, Proof, Refusal};

/// Peers kept. The watch list is bounded elsewhere; this is the last resort.
const MAX_PEERS: usize = 16_384;

/// The kernel's way to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fib {
    pub source: IpAddr,
    pub route: Option<FibRoute>,
}

/// A neighbour's route for a peer: what was last known, also after it was withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    route: RouteAttributes,
    neighbor: NeighborId,
    current: bool,
}

/// A way to be proven: egress, the flows' source, and which probes count by when they were sent.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub egress: &'a EgressName,
    pub source: IpAddr,
    pub onset: Timestamp,
    pub until: Option<Timestamp>,
}

/// Everything that plans and their check rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Probe results.
    pub probes: Ledger,
    /// The kill switch is set: no plan passes the check.
    pub kill_switch: bool,
    /// A maintenance window, by its reason: no plan passes the check.
    pub maintenance: Option<String>,
    fib: BTreeMap<PeerKey, Fib>,
    bgp: BTreeMap<PeerKey, BTreeMap<EgressName, Known>>,
    carrier_lost: BTreeMap<EgressName, bool>,
}

impl Facts {
    pub(crate) fn probe(&mut self, probe: &ProbeResult) {
        self.probes.record(probe);
    }

    pub(crate) fn host(&mut self, signal: &HostSignal) {
        if let HostSignal::Carrier { egress, up } = signal {
            self.carrier_lost.insert(egress.clone(), !up);
        }
    }

    pub(crate) fn fib(&mut self, change: &FibChange) {
        if self.fib.len() < MAX_PEERS || self.fib.contains_key(&change.peer) {
            self.fib.insert(
                change.peer,
                Fib {
                    source: change.source,
                    route: change.route.clone(),
                },
            );
        }
    }

    pub(crate) fn bgp(&mut self, signal: &BgpSignal) {
        let BgpSignal::Fact(fact) = signal else {
            return;
        };
        if self.bgp.len() >= MAX_PEERS && !self.bgp.contains_key(&fact.peer) {
            return;
        }
        let known = self.bgp.entry(fact.peer).or_default();
        // Several neighbours may stand for one egress.
        let held = known.get_mut(&fact.egress);
        match (&fact.route, held) {
            (Some(_), Some(held))
                if fact.neighbor.is_elsewhere()
                    && !held.neighbor.is_elsewhere()
                    && held.current => {}
            (Some(route), _) => {
                known.insert(
                    fact.egress.clone(),
                    Known {
                        route: route.clone(),
                        neighbor: fact.neighbor,
                        current: !fact.stale,
                    },
                );
            }
            (None, Some(held)) if held.neighbor == fact.neighbor => held.current = false,
            (None, _) => {}
        }
    }

    /// The refusal that a maintenance window is, during one.
    pub(crate) fn in_maintenance(&self) -> Option<Refusal> {
        self.maintenance
            .as_ref()
            .map(|reason| Refusal::Maintenance {
                reason: reason.clone(),
            })
    }

    /// Forgets all peers but these.
    pub(crate) fn keep(&mut self, peers: &[(PeerKey, Option<IpAddr>)]) {
        let watched: BTreeSet<PeerKey> = peers.iter().map(|(peer, _)| *peer).collect();
        self.fib.retain(|peer, _| watched.contains(peer));
        self.bgp.retain(|peer, _| watched.contains(peer));
    }

    pub(crate) fn fib_of(&self, peer: PeerKey) -> Option<&Fib> {
        self.fib.get(&peer)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerKey> + '_ {
        self.fib.keys().copied()
    }

    /// The BGP prefix that covers a peer: the backup's own where it has one now, else the most
    /// specific that any neighbour is or was known to have.
    pub(crate) fn covering(&self, peer: PeerKey, backup: &EgressName) -> Option<Prefix> {
        let known = self.bgp.get(&peer)?;
        known
            .get(backup)
            .filter(|known| known.current)
            .or_else(|| {
                known
                    .values()
                    .max_by_key(|known| (known.current, known.route.prefix.prefix_len()))
            })
            .map(|known| known.route.prefix)
    }

    /// Some known path to a peer leads through an AS, or none is known.
    pub(crate) fn may_be_behind(&self, peer: PeerKey, asn: Asn) -> bool {
        self.bgp.get(&peer).is_none_or(|known| {
            known.is_empty() || known.values().any(|k| k.route.as_path.contains(&asn))
        })
    }

    /// The AS that originates the route to an address: of an anchor the configured one.
    pub(crate) fn origin(&self, address: IpAddr, policy: &Policy) -> Option<Asn> {
        policy
            .anchors
            .iter()
            .find(|anchor| anchor.address == address)
            .and_then(|anchor| anchor.asn)
            .or_else(|| {
                self.bgp
                    .get(&PeerKey::of(address))?
                    .values()
                    .find_map(|known| known.route.origin())
            })
    }

    /// The link and the gateway of an egress are not known to be dead.
    pub(crate) fn usable(&self, egress: &EgressName, gateway: IpAddr, onset: Timestamp) -> bool {
        !self.carrier_lost.get(egress).copied().unwrap_or(false)
            && !self.probes.gateway_dead(egress, gateway, onset)
    }

    /// Whether flows to addresses in `prefix` would work this way, there and back, as far as probes
    /// from the flows' own source tell that were sent after the onset:
    /// a target in the prefix decides, else, where the break is a whole egress (`generic`), one of the
    /// same origin AS, else two anchors anywhere of the same family.
    pub(crate) fn proof(
        &self,
        policy: &Policy,
        way: &Way<'_>,
        prefix: Prefix,
        origin: Option<Asn>,
        generic: bool,
    ) -> Proof {
        let (mut inside, mut same_origin) = (Proof::Untested, Proof::Untested);
        let (mut alive, mut dead, mut fallen) = (0, 0, 0);
        let targets = self
            .probes
            .flow_targets(way.egress, way.source, way.onset, way.until);
        for (target, proof) in targets {
            if prefix.contains(&target) {
                inside = better(inside, proof);
            } else if origin.is_some() && self.origin(target, policy) == origin {
                same_origin = better(same_origin, proof);
            }
            if policy.anchors.iter().any(|a| a.address == target) {
                alive += usize::from(proof == Proof::Alive);
                dead += usize::from(proof == Proof::Dead);
                let track = self.probes.fell_silent(way.egress, way.source, target);
                fallen += usize::from(way.until.is_none() && track);
            }
        }
        // Anchors are asked all the time, others now and then: what these answered is over.
        if alive == 0 && fallen >= 2 && inside == Proof::Alive {
            inside = Proof::Untested;
            same_origin = Proof::Untested;
        }
        match (inside, same_origin) {
            // What is wrong with one prefix, or behind one AS, is not wrong with its neighbours.
            (proof, _) if !generic => proof,
            (Proof::Untested, Proof::Untested) if generic && alive >= 2 => Proof::Alive,
            (Proof::Untested, Proof::Untested) if alive == 0 && dead >= 2 => Proof::Dead,
            (Proof::Untested, proof) | (proof, _) => proof,
        }
    }
}

impl Facts {
    /// A target in `prefix` answers this way, whatever anchors do.
    pub(crate) fn answers_in(&self, way: &Way<'_>, prefix: Prefix) -> bool {
        let mut targets = self
            .probes
            .flow_targets(way.egress, way.source, way.onset, way.until);
        targets.any(|(target, proof)| proof == Proof::Alive && prefix.contains(&target))
            || self.probes.link_answers(way.egress, prefix, way.onset)
    }

    /// By then an egress was well: two anchors answered the flows' source what was sent then or later.
    pub(crate) fn well_until(
        &self,
        policy: &Policy,
        egress: &EgressName,
        source: IpAddr,
    ) -> Option<Timestamp> {
        let anchors = policy.anchors.iter();
        let mut answered: Vec<Timestamp> = anchors
            .filter_map(|anchor| self.probes.answered(egress, source, anchor.address))
            .collect();
        answered.sort_unstable();
        answered.iter().rev().nth(1).copied()
    }

    /// A target in `prefix` is silent this way and answers that way, with the flows' source, to what was
    /// sent between `asked` and `until`: one that is silent both ways answers no probes, and one that is
    /// known to be silent from before may answer both by now.
    pub(crate) fn only_there(
        &self,
        here: &Way<'_>,
        there: &Way<'_>,
        prefix: Prefix,
        asked: Timestamp,
        until: Timestamp,
    ) -> bool {
        self.probes
            .flow_targets(here.egress, here.source, here.onset, here.until)
            .filter(|(target, proof)| *proof == Proof::Dead && prefix.contains(target))
            .any(|(target, _)| {
                let (egress, source) = (there.egress, there.source);
                self.probes.flow(egress, source, target, there.onset) == Proof::Alive
                    && self
                        .probes
                        .answered_between(egress, source, target, asked, until)
            })
    }

    /// Two anchors or more answer this way, with the flows' source.
    pub(crate) fn anchors_answer(&self, policy: &Policy, way: &Way<'_>) -> bool {
        self.probes
            .flow_targets(way.egress, way.source, way.onset, way.until)
            .filter(|(target, proof)| {
                *proof == Proof::Alive && policy.anchors.iter().any(|a| a.address == *target)
            })
            .count()
            >= 2
    }
}

/// One answer outweighs any loss; a loss outweighs no test.
fn better(a: Proof, b: Proof) -> Proof {
    a.min(b)
}

#[cfg(test)]
mod tests {
    use events::RouteFact;

    use super::*;

    fn fact(neighbor: &str, prefix: Option<&str>) -> BgpSignal {
        BgpSignal::Fact(RouteFact {
            peer: PeerKey("203.0.113.7".parse().unwrap()),
            neighbor: neighbor.parse().unwrap(),
            egress: "b".into(),
            route: prefix.map(|prefix| RouteAttributes {
                prefix: prefix.parse().unwrap(),
                as_path: vec![Asn(64_501)],
                next_hop: "192.0.2.1".parse().unwrap(),
                received_at: Timestamp::ZERO,
                validation: None,
            }),
            stale: false,
        })
    }

    #[test]
    fn of_several_neighbours_the_one_at_the_egress_tells_the_prefix() {
        let peer = PeerKey("203.0.113.7".parse().unwrap());
        let mut facts = Facts::default();
        let covering = |facts: &Facts| facts.covering(peer, &"b".into()).unwrap().to_string();
        facts.bgp(&fact("198.51.100.9@ris", Some("203.0.0.0/16")));
        assert_eq!(covering(&facts), "203.0.0.0/16");
        facts.bgp(&fact("192.0.2.1", Some("203.0.113.0/24")));
        facts.bgp(&fact("198.51.100.9@ris", Some("203.0.0.0/16")));
        assert_eq!(covering(&facts), "203.0.113.0/24");
        facts.bgp(&fact("2001:db8::1", None));
        facts.bgp(&fact("198.51.100.9@ris", None));
        let known = &facts.bgp[&peer][&"b".into()];
        assert!(known.current, "others do not take it back");
        facts.bgp(&fact("192.0.2.1", None));
        assert!(!facts.bgp[&peer][&"b".into()].current);
    }
}
