//! The RIB of all neighbours, and the signals that its changes are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use events::{
    BgpSignal, EgressName, NeighborId, PeerKey, Prefix, RouteAttributes, RouteChange, RouteFact,
    SessionDownReason, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::arena::Arena;
use crate::attributes::Attributes;
use crate::nlri::{Families, Family};
use crate::session::Negotiated;
use crate::table::{Entry, Table};
use crate::update::Update;

/// How long a new session has for its End-of-RIB; then what it did not announce again is withdrawn.
/// Neighbours without graceful restart need not send the marker at all.
pub const END_OF_RIB_WAIT: Duration = Duration::from_mins(2);

/// A neighbour as the RIB needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborConfig {
    /// Its address.
    pub id: NeighborId,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// The most prefixes that it may have, per family.
    pub max_prefixes: u32,
}

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RibQuery {
    /// Every route.
    All,
    /// Each neighbour's longest match.
    Address(IpAddr),
    /// The prefix and its more specifics.
    Prefix(Prefix),
}

/// A route of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibRoute {
    /// Whose.
    pub neighbor: NeighborId,
    /// The egress that it stands for.
    pub egress: EgressName,
    /// The route.
    pub route: RouteAttributes,
    /// It is what was last known; the session is lost, or has not announced it again yet.
    pub stale: bool,
}

/// Figures of one neighbour's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// IPv4 prefixes.
    pub ipv4: usize,
    /// IPv6 prefixes.
    pub ipv6: usize,
    /// There are routes, and the session that they came by is lost.
    pub stale: bool,
    /// Families whose End-of-RIB has come in this session.
    pub complete: Families,
}

/// More prefixes than allowed: the session is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neighbour {}: more than {limit} {family:?} prefixes; raise max_prefixes if that is right", .neighbor.0)]
pub struct MaxPrefixes {
    /// Whose.
    pub neighbor: NeighborId,
    /// Of which family.
    pub family: Family,
    /// How many are allowed.
    pub limit: u32,
}

#[derive(Debug)]
struct Neighbor {
    config: NeighborConfig,
    table: Table,
    /// Counts sessions; 0: there was none yet.
    generation: u32,
    /// The current session; `None` while there is none.
    session: Option<u64>,
    families: Families,
    complete: Families,
    /// When families that are not complete yet are taken to be.
    end_of_rib_due: Option<Timestamp>,
}

impl Neighbor {
    fn is_stale(&self, entry: Entry) -> bool {
        self.session.is_none() || entry.generation != self.generation
    }
}

/// All neighbours' routes. Methods return signals in the order in which they are to be sent.
#[derive(Debug, Default)]
pub struct Rib {
    neighbors: BTreeMap<NeighborId, Neighbor>,
    arena: Arena,
    watched: BTreeSet<PeerKey>,
    facts: BTreeMap<(NeighborId, PeerKey), RouteFact>,
}

impl Rib {
    /// An empty RIB.
    #[must_use]
    pub fn new(neighbors: impl IntoIterator<Item = NeighborConfig>) -> Self {
        let neighbor = |config: NeighborConfig| {
            (
                config.id,
                Neighbor {
                    config,
                    table: Table::default(),
                    generation: 0,
                    session: None,
                    families: Families::default(),
                    complete: Families::default(),
                    end_of_rib_due: None,
                },
            )
        };
        Self {
            neighbors: neighbors.into_iter().map(neighbor).collect(),
            ..Self::default()
        }
    }

    /// A session is Established. `session` is greater than that of any earlier session.
    pub fn session_up(
        &mut self,
        id: NeighborId,
        session: u64,
        negotiated: &Negotiated,
        now: Timestamp,
    ) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let Some(old) = self.neighbors.get(&id).map(|neighbor| neighbor.session) else {
            return signals;
        };
        if let Some(old) = old {
            let reason = SessionDownReason::ConnectionLost {
                text: "a new session took its place".to_owned(),
            };
            signals = self.session_down(id, old, reason);
        }
        if let Some(neighbor) = self.neighbors.get_mut(&id) {
            neighbor.session = Some(session);
            neighbor.generation = neighbor.generation.wrapping_add(1);
            neighbor.families = negotiated.context.families;
            neighbor.complete = Families::default();
            neighbor.end_of_rib_due = Some(now + END_OF_RIB_WAIT);
            signals.push(BgpSignal::SessionUp {
                neighbor: id,
                asn: negotiated.asn,
                egress: neighbor.config.egress.clone(),
            });
        }
        signals
    }

    /// A session is lost: its routes become stale. Ignored where it is not the current one.
    pub fn session_down(
        &mut self,
        id: NeighborId,
        session: u64,
        reason: SessionDownReason,
    ) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let Some(neighbor) = self.neighbors.get_mut(&id) else {
            return signals;
        };
        if neighbor.session != Some(session) {
            return signals;
        }
        neighbor.session = None;
        neighbor.complete = Families::default();
        neighbor.end_of_rib_due = None;
        signals.push(BgpSignal::SessionDown {
            neighbor: id,
            egress: neighbor.config.egress.clone(),
            reason,
        });
        let watched = self.watched.clone();
        self.refresh_facts(id, &watched, &mut signals);
        signals
    }

    /// Applies an UPDATE of a session; ignored where that is not the current one.
    ///
    /// The second value says that the neighbour has more prefixes than it may; the rest of the
    /// UPDATE is not applied then, and the session is to be stopped.
    pub fn apply(
        &mut self,
        id: NeighborId,
        session: u64,
        update: &Update,
        now: Timestamp,
    ) -> (Vec<BgpSignal>, Option<MaxPrefixes>) {
        let mut signals = Vec::new();
        let is_current = |neighbor: &Neighbor| neighbor.session == Some(session);
        if !self.neighbors.get(&id).is_some_and(is_current) {
            return (signals, None);
        }
        let mut touched = BTreeSet::new();
        for prefix in &update.withdrawn {
            self.withdraw(id, *prefix, &mut signals, &mut touched);
        }
        let mut exceeded = None;
        'all: for announcement in &update.announced {
            let packed = announcement.attributes.pack();
            for prefix in &announcement.prefixes {
                exceeded = self.announce(id, *prefix, &packed, now, &mut signals, &mut touched);
                if exceeded.is_some() {
                    break 'all;
                }
            }
        }
        self.refresh_facts(id, &touched, &mut signals);
        if let Some(family) = update.end_of_rib {
            self.end_of_rib(id, family, &mut signals);
        }
        (signals, exceeded)
    }

    /// When [`Self::expire`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.neighbors
            .values()
            .filter_map(|neighbor| neighbor.end_of_rib_due)
            .min()
    }

    /// Takes the tables of sessions whose End-of-RIB is overdue for complete.
    pub fn expire(&mut self, now: Timestamp) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let due = |neighbor: &Neighbor| neighbor.end_of_rib_due.is_some_and(|due| due <= now);
        let late: Vec<NeighborId> = self
            .neighbors
            .iter()
            .filter_map(|(id, neighbor)| due(neighbor).then_some(*id))
            .collect();
        for id in late {
            for family in Family::ALL {
                self.complete(id, family, &mut signals);
            }
            if let Some(neighbor) = self.neighbors.get_mut(&id) {
                neighbor.end_of_rib_due = None;
            }
        }
        signals
    }

    /// Replaces the watched addresses; facts for those that are new.
    pub fn watch(&mut self, watched: BTreeSet<PeerKey>) -> Vec<BgpSignal> {
        let new: BTreeSet<PeerKey> = watched.difference(&self.watched).copied().collect();
        self.facts.retain(|(_, peer), _| watched.contains(peer));
        self.watched = watched;
        let mut signals = Vec::new();
        let ids: Vec<NeighborId> = self.neighbors.keys().copied().collect();
        for id in ids {
            self.refresh_facts(id, &new, &mut signals);
        }
        signals
    }

    /// Routes that a query asks for, by neighbour and prefix, `limit` at most.
    #[must_use]
    pub fn routes(&self, query: RibQuery, limit: usize) -> Vec<RibRoute> {
        let mut routes = Vec::new();
        for (id, neighbor) in &self.neighbors {
            let table = &neighbor.table;
            let found: Box<dyn Iterator<Item = (Prefix, Entry)>> = match &query {
                RibQuery::All => Box::new(
                    Family::ALL
                        .into_iter()
                        .flat_map(|family| table.iter(family)),
                ),
                RibQuery::Address(address) => {
                    Box::new(table.covering(address.to_canonical()).into_iter())
                }
                RibQuery::Prefix(prefix) => table.within(&prefix.trunc()),
            };
            let left = limit.saturating_sub(routes.len());
            routes.extend(found.take(left).filter_map(|(prefix, entry)| {
                Some(RibRoute {
                    neighbor: *id,
                    egress: neighbor.config.egress.clone(),
                    route: self.route(prefix, entry)?,
                    stale: neighbor.is_stale(entry),
                })
            }));
        }
        routes
    }

    /// Figures of a neighbour's table.
    #[must_use]
    pub fn status(&self, id: NeighborId) -> TableStatus {
        let Some(neighbor) = self.neighbors.get(&id) else {
            return TableStatus::default();
        };
        let ipv4 = neighbor.table.len(Family::Ipv4);
        let ipv6 = neighbor.table.len(Family::Ipv6);
        TableStatus {
            ipv4,
            ipv6,
            stale: neighbor.session.is_none() && ipv4 + ipv6 > 0,
            complete: neighbor.complete,
        }
    }

    /// How many different sets of attributes are stored.
    #[must_use]
    pub fn attribute_sets(&self) -> usize {
        self.arena.len()
    }

    fn announce(
        &mut self,
        id: NeighborId,
        prefix: Prefix,
        packed: &[u8],
        now: Timestamp,
        signals: &mut Vec<BgpSignal>,
        touched: &mut BTreeSet<PeerKey>,
    ) -> Option<MaxPrefixes> {
        let neighbor = self.neighbors.get_mut(&id)?;
        let family = Family::of_prefix(&prefix);
        let old = neighbor.table.get(&prefix);
        let limit = neighbor.config.max_prefixes;
        if old.is_none() && neighbor.table.len(family) >= limit as usize {
            return Some(MaxPrefixes {
                neighbor: id,
                family,
                limit,
            });
        }
        let mut entry = Entry {
            received_at: now,
            attributes: self.arena.acquire(packed),
            generation: neighbor.generation,
        };
        let peers = peers_within(&self.watched, &prefix);
        let before = old.filter(|_| !peers.is_empty());
        let old_route = before.and_then(|old| route(&self.arena, prefix, old));
        let new_route = route(&self.arena, prefix, entry).filter(|_| !peers.is_empty());
        let same_route = match (&old_route, &new_route) {
            (Some(old), Some(new)) => old.as_path == new.as_path && old.next_hop == new.next_hop,
            _ => false,
        };
        if let Some(old) = old {
            self.arena.release(old.attributes);
            // Said twice in one session: the time of the first stands.
            let repeated = old.attributes == entry.attributes || same_route;
            if repeated && old.generation == entry.generation {
                entry.received_at = old.received_at;
            }
        }
        neighbor.table.insert(prefix, entry);
        let peers = covered_best(&neighbor.table, &prefix, peers);
        if peers.is_empty() {
            return None;
        }
        touched.extend(peers.iter().copied());
        if !same_route {
            signals.push(BgpSignal::Change(RouteChange {
                neighbor: id,
                egress: neighbor.config.egress.clone(),
                prefix,
                old: old_route,
                new: new_route,
                peers,
            }));
        }
        None
    }

    fn withdraw(
        &mut self,
        id: NeighborId,
        prefix: Prefix,
        signals: &mut Vec<BgpSignal>,
        touched: &mut BTreeSet<PeerKey>,
    ) {
        let Some(neighbor) = self.neighbors.get_mut(&id) else {
            return;
        };
        let Some(old) = neighbor.table.remove(&prefix) else {
            return;
        };
        let peers = peers_within(&self.watched, &prefix);
        let peers = covered_best(&neighbor.table, &prefix, peers);
        if !peers.is_empty() {
            touched.extend(peers.iter().copied());
            signals.push(BgpSignal::Change(RouteChange {
                neighbor: id,
                egress: neighbor.config.egress.clone(),
                prefix,
                old: route(&self.arena, prefix, old),
                new: None,
                peers,
            }));
        }
        self.arena.release(old.attributes);
    }

    fn end_of_rib(&mut self, id: NeighborId, family: Family, signals: &mut Vec<BgpSignal>) {
        signals.push(BgpSignal::EndOfRib {
            neighbor: id,
            ipv6: family == Family::Ipv6,
        });
        self.complete(id, family, signals);
        if let Some(neighbor) = self.neighbors.get_mut(&id) {
            let missing = |family: &Family| {
                neighbor.families.contains(*family) && !neighbor.complete.contains(*family)
            };
            // Stale routes of a family that this session does not have wait for the deadline.
            let foreign = |family: &Family| {
                !neighbor.families.contains(*family) && neighbor.table.len(*family) > 0
            };
            if !Family::ALL
                .iter()
                .any(|family| missing(family) || foreign(family))
            {
                neighbor.end_of_rib_due = None;
            }
        }
    }

    /// The family's table is as the neighbour has it: what it did not announce again is withdrawn.
    fn complete(&mut self, id: NeighborId, family: Family, signals: &mut Vec<BgpSignal>) {
        let Some(neighbor) = self.neighbors.get_mut(&id) else {
            return;
        };
        if neighbor.families.contains(family) {
            neighbor.complete.insert(family);
        }
        let gone: Vec<Prefix> = neighbor
            .table
            .iter(family)
            .filter_map(|(prefix, entry)| neighbor.is_stale(entry).then_some(prefix))
            .collect();
        let mut touched = BTreeSet::new();
        for prefix in gone {
            self.withdraw(id, prefix, signals, &mut touched);
        }
        let of_family = |peer: &&PeerKey| Family::of(peer.0) == family;
        touched.extend(self.watched.iter().filter(of_family));
        self.refresh_facts(id, &touched, signals);
    }

    /// Facts of these peers that are not what was last sent.
    fn refresh_facts(
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
    /// is still on its way.
    fn fact(&self, id: NeighborId, peer: PeerKey) -> Option<RouteFact> {
        let neighbor = self.neighbors.get(&id)?;
        let (route, stale) = match neighbor.table.covering(peer.0) {
            Some((prefix, entry)) => (self.route(prefix, entry), neighbor.is_stale(entry)),
            None => {
                let complete =
                    neighbor.session.is_some() && neighbor.complete.contains(Family::of(peer.0));
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

    fn route(&self, prefix: Prefix, entry: Entry) -> Option<RouteAttributes> {
        route(&self.arena, prefix, entry)
    }
}

fn route(arena: &Arena, prefix: Prefix, entry: Entry) -> Option<RouteAttributes> {
    let attributes = Attributes::unpack(arena.get(entry.attributes))?;
    Some(RouteAttributes {
        prefix,
        as_path: attributes.as_path.flat(),
        next_hop: attributes.next_hop,
        received_at: entry.received_at,
    })
}

fn peers_within(watched: &BTreeSet<PeerKey>, prefix: &Prefix) -> Vec<PeerKey> {
    watched
        .range(PeerKey(prefix.network())..=PeerKey(prefix.broadcast()))
        .copied()
        .collect()
}

/// Those of the peers inside `prefix` for which no more specific route exists.
fn covered_best(table: &Table, prefix: &Prefix, mut peers: Vec<PeerKey>) -> Vec<PeerKey> {
    peers.retain(|peer| {
        table
            .covering(peer.0)
            .is_none_or(|(best, _)| best.prefix_len() <= prefix.prefix_len())
    });
    peers
}
