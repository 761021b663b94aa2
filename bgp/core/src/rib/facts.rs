//! What watched peers are told.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use events::{BgpSignal, NeighborId, PeerKey, Prefix, RouteAttributes, RouteFact};

use super::{Neighbor, Rib};
use crate::attributes::Attributes;
use crate::links;
use crate::nlri::Family;
use crate::table::{Entry, Table};
use crate::validation::Vrps;

/// Facts that one call validates anew: some microseconds each.
const REVALIDATE: usize = 128;

impl Rib {
    /// Replaces the watched addresses; facts for those that are new.
    pub fn watch(&mut self, watched: BTreeSet<PeerKey>) -> Vec<BgpSignal> {
        let new: BTreeSet<PeerKey> = watched.difference(&self.watched).copied().collect();
        self.facts.retain(|(_, peer), _| watched.contains(peer));
        self.watched = watched;
        let mut signals = Vec::new();
        let ids: Vec<NeighborId> = self.ids.keys().copied().collect();
        for id in ids {
            self.refresh_facts(id, &new, &mut signals);
        }
        signals
    }

    /// Replaces what origins are validated by. Facts that change for it come from
    /// [`Self::expire`].
    pub fn set_vrps(&mut self, vrps: Arc<Vrps>) {
        self.vrps = vrps;
        self.revalidate = self.facts.keys().copied().collect();
    }

    /// What was last told of a neighbour's routes.
    pub fn facts_of(&self, id: NeighborId) -> impl Iterator<Item = &RouteFact> {
        let first = (id, PeerKey(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        let from = self
            .facts
            .range(first..)
            .take_while(move |((of, _), _)| *of == id);
        from.map(|(_, fact)| fact)
    }

    /// A neighbour's longest match.
    #[must_use]
    pub fn covering(&self, id: NeighborId, address: IpAddr) -> Option<Prefix> {
        let (prefix, _) = self.neighbor(id)?.table.covering(address)?;
        Some(prefix)
    }

    /// How many VRPs there are.
    #[must_use]
    pub fn vrps(&self) -> usize {
        self.vrps.len()
    }

    pub(super) fn revalidate_some(&mut self, signals: &mut Vec<BgpSignal>) {
        for _ in 0..REVALIDATE {
            let Some((id, peer)) = self.revalidate.pop_front() else {
                return;
            };
            if self.watched.contains(&peer) {
                self.refresh_facts(id, &BTreeSet::from([peer]), signals);
            }
        }
    }

    /// Facts of these peers that are not what was last sent.
    pub(super) fn refresh_facts(
        &mut self,
        id: NeighborId,
        peers: &BTreeSet<PeerKey>,
        signals: &mut Vec<BgpSignal>,
    ) {
        for peer in peers {
            let Some(fact) = self.fact(id, *peer) else {
                continue;
            };
            let last = self.facts.get(&(id, *peer));
            if last != Some(&fact) {
                self.facts.insert((id, *peer), fact.clone());
                signals.push(BgpSignal::Fact(fact));
            }
        }
    }

    /// `None` while it is unknown whether the neighbour has a route: no session yet, or the table
    /// is still on its way, or incomplete.
    fn fact(&self, id: NeighborId, peer: PeerKey) -> Option<RouteFact> {
        let neighbor = self.neighbor(id)?;
        let (route, stale) = match neighbor.table.covering(peer.0) {
            Some((prefix, entry)) => (
                route(neighbor, &self.vrps, prefix, entry),
                neighbor.is_stale(entry),
            ),
            None => {
                let complete = neighbor.session.is_some()
                    && neighbor.complete.contains(Family::of(peer.0))
                    && !neighbor.lack.is_partial();
                if !complete && !self.facts.contains_key(&(id, peer)) {
                    return None;
                }
                (None, !complete)
            }
        };
        Some(RouteFact {
            peer,
            neighbor: id,
            egress: neighbor.config.egress.clone(),
            route,
            stale,
        })
    }
}

/// A stored route, decoded and validated.
pub(super) fn route(
    neighbor: &Neighbor,
    vrps: &Vrps,
    prefix: Prefix,
    entry: Entry,
) -> Option<RouteAttributes> {
    let packed = neighbor.arena.get(entry.attributes);
    let attributes = Attributes::unpack(packed)?;
    let as_path = attributes.as_path.flat();
    // A route without a path is of the neighbour's own AS.
    let origin = match as_path.is_empty() {
        true => Some(neighbor.asn),
        false => links::origin(packed),
    };
    Some(RouteAttributes {
        prefix,
        as_path,
        next_hop: attributes.next_hop,
        received_at: entry.received_at,
        validation: (!vrps.is_empty()).then(|| vrps.validate(&prefix, origin)),
    })
}

pub(super) fn peers_within(
    watched: &BTreeSet<PeerKey>,
    prefix: &Prefix,
) -> impl Iterator<Item = PeerKey> {
    let range = (!watched.is_empty())
        .then(|| watched.range(PeerKey(prefix.network())..=PeerKey(prefix.broadcast())));
    range.into_iter().flatten().copied()
}

/// Those of the peers inside `prefix` for which no more specific route exists.
pub(super) fn covered_best(
    table: &Table,
    prefix: &Prefix,
    peers: impl Iterator<Item = PeerKey>,
) -> Vec<PeerKey> {
    let best = |peer: &PeerKey| {
        let covering = table.covering(peer.0);
        covering.is_none_or(|(best, _)| best.prefix_len() <= prefix.prefix_len())
    };
    peers.filter(best).collect()
}
