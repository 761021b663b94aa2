//! What BGP says of the way to each watched address, per egress.

use std::collections::{BTreeMap, BTreeSet};

use events::{Asn, BgpSignal, EgressName, NeighborId, PeerKey, Prefix, RouteAttributes};
use serde::{Deserialize, Serialize};

use crate::params::Params;

/// Addresses followed at most.
const MAX_ADDRESSES: usize = 16_384;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    pub prefix: Prefix,
    /// Nearest first, without this host's own AS and without repetitions in a row.
    pub ases: Vec<Asn>,
    pub neighbor: NeighborId,
    /// The session is lost: the path is what was last known.
    pub stale: bool,
    /// The route is gone: the path is what it was.
    pub withdrawn: bool,
}

impl Path {
    pub fn upstream(&self) -> Option<Asn> {
        self.ases.first().copied()
    }

    pub fn origin(&self) -> Option<Asn> {
        self.ases.last().copied()
    }
}

/// The paths known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    map: BTreeMap<PeerKey, BTreeMap<EgressName, Path>>,
    local_as: Option<Asn>,
}

impl Routes {
    pub fn new(local_as: Option<Asn>) -> Self {
        Self {
            map: BTreeMap::new(),
            local_as,
        }
    }

    /// An AS path as blame needs it.
    pub fn ases(&self, route: &RouteAttributes) -> Vec<Asn> {
        let mut ases: Vec<Asn> = route
            .as_path
            .iter()
            .copied()
            .filter(|asn| Some(*asn) != self.local_as)
            .collect();
        ases.dedup();
        ases
    }

    pub fn signal(&mut self, signal: &BgpSignal) {
        match signal {
            BgpSignal::Fact(fact) => {
                self.set(
                    fact.peer,
                    &fact.egress,
                    fact.neighbor,
                    fact.route.as_ref(),
                    fact.stale,
                );
            }
            BgpSignal::Change(change) => {
                for peer in &change.peers {
                    self.set(
                        *peer,
                        &change.egress,
                        change.neighbor,
                        change.new.as_ref(),
                        false,
                    );
                }
            }
            BgpSignal::SessionDown { neighbor, .. } => {
                for path in self.map.values_mut().flat_map(BTreeMap::values_mut) {
                    if path.neighbor == *neighbor {
                        path.stale = true;
                    }
                }
            }
            BgpSignal::SessionUp { .. } | BgpSignal::EndOfRib { .. } | BgpSignal::Burst(_) => {}
        }
    }

    fn set(
        &mut self,
        peer: PeerKey,
        egress: &EgressName,
        neighbor: NeighborId,
        route: Option<&RouteAttributes>,
        stale: bool,
    ) {
        match route {
            Some(route) => {
                if self.map.len() >= MAX_ADDRESSES && !self.map.contains_key(&peer) {
                    return;
                }
                let ases = self.ases(route);
                let paths = self.map.entry(peer).or_default();
                let known_better =
                    |held: &Path| !held.neighbor.is_elsewhere() && !held.stale && !held.withdrawn;
                if neighbor.is_elsewhere() && paths.get(egress).is_some_and(known_better) {
                    return;
                }
                let path = Path {
                    prefix: route.prefix,
                    ases,
                    neighbor,
                    stale,
                    withdrawn: false,
                };
                paths.insert(egress.clone(), path);
            }
            None => {
                // The path stays for blame. Two neighbours may stand for one egress: only the route's
                // own one takes it back.
                let paths = self.map.get_mut(&peer);
                if let Some(path) = paths.and_then(|paths| paths.get_mut(egress))
                    && path.neighbor == neighbor
                {
                    path.withdrawn = true;
                }
            }
        }
    }

    /// The path through `egress`.
    pub fn path(&self, peer: &PeerKey, egress: &EgressName) -> Option<&Path> {
        self.map.get(peer)?.get(egress)
    }

    /// The covering prefix by any egress, that of `egress` first.
    pub fn prefix(&self, peer: &PeerKey, egress: &EgressName) -> Option<Prefix> {
        let paths = self.map.get(peer)?;
        paths
            .get(egress)
            .or_else(|| paths.values().next())
            .map(|p| p.prefix)
    }

    /// The origin AS by any egress, that of `egress` first.
    pub fn origin(&self, peer: &PeerKey, egress: &EgressName) -> Option<Asn> {
        let paths = self.map.get(peer)?;
        paths
            .get(egress)
            .or_else(|| paths.values().next())
            .and_then(Path::origin)
    }

    /// Distinct paths (one per prefix) known through `egress`.
    pub fn through<'a>(&'a self, egress: &EgressName) -> BTreeMap<Prefix, &'a Path> {
        self.map
            .values()
            .filter_map(|paths| paths.get(egress))
            .filter(|path| !path.withdrawn)
            .map(|p| (p.prefix, p))
            .collect()
    }

    /// How many peers have a path through `egress`, or had one.
    pub fn peers(&self, egress: &EgressName, params: &Params) -> usize {
        let anchor = |key: &PeerKey| params.anchors.iter().any(|(a, _)| *a == key.0);
        self.map
            .iter()
            .filter(|(key, paths)| paths.contains_key(egress) && !anchor(key))
            .count()
    }

    /// Forgets addresses that are no longer watched.
    pub fn retain(&mut self, watched: &BTreeSet<PeerKey>) {
        self.map.retain(|key, _| watched.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use events::RouteFact;

    use super::*;

    fn fact(neighbor: &str, path: &[u32], stale: bool) -> BgpSignal {
        BgpSignal::Fact(RouteFact {
            peer: PeerKey("203.0.113.7".parse().unwrap()),
            neighbor: neighbor.parse().unwrap(),
            egress: "a".into(),
            route: (!path.is_empty()).then(|| RouteAttributes {
                prefix: "203.0.113.0/24".parse().unwrap(),
                as_path: path.iter().copied().map(Asn).collect(),
                next_hop: "192.0.2.1".parse().unwrap(),
                received_at: events::Timestamp::ZERO,
                validation: None,
            }),
            stale,
        })
    }

    #[test]
    fn a_collector_elsewhere_speaks_only_where_nobody_near_does() {
        const OWN: &str = "192.0.2.1";
        const RIS: &str = "198.51.100.9@ris";
        let mut routes = Routes::new(None);
        let first = |routes: &Routes| {
            let peer = PeerKey("203.0.113.7".parse().unwrap());
            let path = routes.path(&peer, &"a".into()).unwrap();
            (path.upstream().unwrap().0, path.withdrawn)
        };
        routes.signal(&fact(RIS, &[64_999, 64_510], false));
        assert_eq!(first(&routes), (64_999, false));
        routes.signal(&fact(OWN, &[64_501, 64_510], false));
        assert_eq!(first(&routes), (64_501, false));
        routes.signal(&fact(RIS, &[64_999, 64_510], false));
        assert_eq!(first(&routes), (64_501, false), "ours is known");
        routes.signal(&fact(RIS, &[], false));
        assert_eq!(first(&routes), (64_501, false), "only RIS has it no more");
        routes.signal(&fact(OWN, &[], false));
        assert_eq!(first(&routes), (64_501, true));
        routes.signal(&fact(RIS, &[64_999, 64_510], false));
        assert_eq!(first(&routes), (64_999, false));
        routes.signal(&fact(OWN, &[64_501, 64_510], true));
        routes.signal(&fact(RIS, &[64_998, 64_510], false));
        assert_eq!(first(&routes), (64_998, false), "ours is stale");
    }
}
