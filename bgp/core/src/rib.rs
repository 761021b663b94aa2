//! The RIB of all neighbours, and the signals that its changes are.

mod restart;

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
#[error("neighbour {}: more than {limit} {family:?} prefixes; raise max_prefixes if that is right", .neighbor.address)]
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
    /// Counts sessions and refreshes; 0: there was no session yet.
    generation: u32,
    /// Routes of earlier generations are of an earlier session.
    session_generation: u32,
    /// The generation of a refresh that has begun and not ended, by family.
    refreshing: BTreeMap<Family, u32>,
    /// Families that the last session's neighbour wanted kept while it restarts (RFC 4724).
    kept: Families,
    /// The current session; `None` while there is none.
    session: Option<u64>,
    families: Families,
    complete: Families,
    /// When families that are not complete yet are taken to be.
    end_of_rib_due: Option<Timestamp>,
}

impl Neighbor {
    fn new(config: NeighborConfig) -> Self {
        Self {
            config,
            table: Table::default(),
            generation: 0,
            session_generation: 0,
            refreshing: BTreeMap::new(),
            kept: Families::NONE,
            session: None,
            families: Families::default(),
            complete: Families::default(),
            end_of_rib_due: None,
        }
    }

    fn is_stale(&self, entry: Entry) -> bool {
        self.session.is_none() || entry.generation < self.session_generation
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
        let mut rib = Self::default();
        for config in neighbors {
            rib.add(config);
        }
        rib
    }

    /// A neighbour more, without routes. Nothing happens where it is known.
    pub fn add(&mut self, config: NeighborConfig) {
        self.neighbors
            .entry(config.id)
            .or_insert_with(|| Neighbor::new(config));
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
            neighbor.generation += 1;
            neighbor.session_generation = neighbor.generation;
            neighbor.refreshing.clear();
            neighbor.families = negotiated.context.families;
            neighbor.complete = Families::default();
            // Of a feed that has changes alone (families: none) no table is ever complete.
            let whole = neighbor.families != Families::NONE;
            neighbor.end_of_rib_due = whole.then_some(now + END_OF_RIB_WAIT);
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
        for nlri in &update.withdrawn {
            self.withdraw(id, nlri.prefix, &mut signals, &mut touched);
        }
        let mut exceeded = None;
        'all: for announcement in &update.announced {
            if announcement.ineligible.is_some() {
                for prefix in announcement.prefixes() {
                    self.withdraw(id, prefix, &mut signals, &mut touched);
                }
                continue;
            }
            let packed = announcement.attributes.pack();
            for prefix in announcement.prefixes() {
                exceeded = self.announce(id, prefix, &packed, now, &mut signals, &mut touched);
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
        // Unpacked only where somebody may be told.
        let unpack = |entry: Entry| {
            let wanted = !peers.is_empty();
            wanted.then(|| route(&self.arena, prefix, entry)).flatten()
        };
        let (old_route, new_route) = (old.and_then(unpack), unpack(entry));
        let same_route = match (&old_route, &new_route) {
            (Some(old), Some(new)) => old.as_path == new.as_path && old.next_hop == new.next_hop,
            _ => false,
        };
        if let Some(old) = old {
            self.arena.release(old.attributes);
            // Said twice in one session: the time of the first stands.
            let repeated = old.attributes == entry.attributes || same_route;
            if repeated && !neighbor.is_stale(old) {
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
        let oldest = neighbor.session_generation;
        self.sweep(id, family, oldest, signals);
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
        validation: None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Origin;
    use crate::nlri::Nlri;
    use crate::path::{AsPath, Segment, SegmentKind};
    use crate::update::{Announcement, Context};
    use events::Asn;
    use std::net::Ipv4Addr;

    const A: NeighborId = NeighborId::session(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    const B: NeighborId = NeighborId::session(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));

    fn rib(max_prefixes: u32) -> Rib {
        Rib::new([(A, "a"), (B, "b")].map(|(id, egress)| NeighborConfig {
            id,
            egress: egress.into(),
            max_prefixes,
        }))
    }

    fn negotiated() -> Negotiated {
        Negotiated {
            asn: Asn(64500),
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            hold_time: Duration::from_secs(90),
            graceful_restart: true,
            context: Context {
                four_octet_as: true,
                internal: false,
                families: Families::BOTH,
                ..Context::default()
            },
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn attributes(path: &[u32], hop: u8, other: &[u8]) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath(vec![Segment {
                kind: SegmentKind::Sequence,
                members: path.iter().copied().map(Asn).collect(),
            }]),
            next_hop: IpAddr::V4(Ipv4Addr::new(192, 0, 2, hop)),
            link_local: None,
            other: other.to_vec(),
        }
    }

    fn nlri(prefixes: &[&str]) -> Vec<Nlri> {
        let parsed = |prefix: &&str| Nlri::from(prefix.parse::<Prefix>().unwrap());
        prefixes.iter().map(parsed).collect()
    }

    fn announce(prefixes: &[&str], path: &[u32]) -> Update {
        announce_with(prefixes, attributes(path, 1, &[]))
    }

    fn announce_with(prefixes: &[&str], attributes: Attributes) -> Update {
        Update {
            announced: vec![Announcement {
                attributes,
                nlri: nlri(prefixes),
                ineligible: None,
            }],
            ..Update::default()
        }
    }

    fn withdraw(prefixes: &[&str]) -> Update {
        Update {
            withdrawn: nlri(prefixes),
            ..Update::default()
        }
    }

    fn end() -> Update {
        Update {
            end_of_rib: Some(Family::Ipv4),
            ..Update::default()
        }
    }

    fn watch(rib: &mut Rib, peers: &[&str]) -> Vec<String> {
        let peers = peers
            .iter()
            .map(|peer| PeerKey(peer.parse().unwrap()))
            .collect();
        said(&rib.watch(peers))
    }

    fn apply(rib: &mut Rib, session: u64, update: &Update, seconds: u64) -> Vec<String> {
        let (signals, exceeded) = rib.apply(A, session, update, at(seconds));
        assert_eq!(exceeded, None);
        said(&signals)
    }

    fn said(signals: &[BgpSignal]) -> Vec<String> {
        let route = |route: &Option<RouteAttributes>| match route {
            Some(route) => {
                let path: Vec<String> = route.as_path.iter().map(|asn| asn.0.to_string()).collect();
                format!("{} [{}]", route.prefix, path.join(" "))
            }
            None => "none".to_owned(),
        };
        let one = |signal: &BgpSignal| match signal {
            BgpSignal::SessionUp { egress, .. } => format!("up {egress}"),
            BgpSignal::SessionDown { egress, .. } => format!("down {egress}"),
            BgpSignal::EndOfRib { ipv6, .. } => format!("end ipv6={ipv6}"),
            BgpSignal::Fact(fact) => format!(
                "{} by {}: {}{}",
                fact.peer,
                fact.egress,
                route(&fact.route),
                if fact.stale { " stale" } else { "" }
            ),
            BgpSignal::Change(change) => {
                let peers: Vec<String> = change.peers.iter().map(ToString::to_string).collect();
                format!(
                    "{} -> {} for {}",
                    route(&change.old),
                    route(&change.new),
                    peers.join(" ")
                )
            }
            BgpSignal::Burst(burst) => format!("burst of {}", burst.prefixes),
        };
        signals.iter().map(one).collect()
    }

    #[test]
    fn changes_come_before_the_facts_that_follow_from_them() {
        let mut rib = rib(100);
        assert!(
            watch(&mut rib, &["10.1.0.1", "10.2.0.1"]).is_empty(),
            "nothing is known"
        );
        assert_eq!(said(&rib.session_up(A, 1, &negotiated(), at(0))), ["up a"]);
        assert_eq!(
            apply(
                &mut rib,
                1,
                &announce(&["10.0.0.0/8", "11.0.0.0/8"], &[1]),
                1
            ),
            [
                "none -> 10.0.0.0/8 [1] for 10.1.0.1 10.2.0.1",
                "10.1.0.1 by a: 10.0.0.0/8 [1]",
                "10.2.0.1 by a: 10.0.0.0/8 [1]"
            ]
        );
        assert_eq!(
            apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1, 2]), 2),
            [
                "none -> 10.1.0.0/16 [1 2] for 10.1.0.1",
                "10.1.0.1 by a: 10.1.0.0/16 [1 2]"
            ]
        );
        // The wide route now covers one of them only.
        assert_eq!(
            apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[3]), 3),
            [
                "10.0.0.0/8 [1] -> 10.0.0.0/8 [3] for 10.2.0.1",
                "10.2.0.1 by a: 10.0.0.0/8 [3]"
            ]
        );
        assert_eq!(
            apply(
                &mut rib,
                1,
                &withdraw(&["10.1.0.0/16", "11.0.0.0/8", "12.0.0.0/8"]),
                4
            ),
            [
                "10.1.0.0/16 [1 2] -> none for 10.1.0.1",
                "10.1.0.1 by a: 10.0.0.0/8 [3]"
            ]
        );
        let moved = announce_with(&["10.0.0.0/8"], attributes(&[3], 9, &[]));
        let (signals, _) = rib.apply(A, 1, &moved, at(5));
        let BgpSignal::Change(change) = &signals[0] else {
            panic!("{signals:?}");
        };
        assert_eq!(change.peers.len(), 2);
        assert_eq!(
            change.new.as_ref().unwrap().next_hop.to_string(),
            "192.0.2.9"
        );
    }

    #[test]
    fn saying_it_again_or_changing_what_nobody_sees_is_no_signal() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[1]), 1);
        assert!(apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[1]), 2).is_empty());
        let tagged = announce_with(
            &["10.0.0.0/8"],
            attributes(&[1], 1, &[0xc0, 8, 4, 0, 1, 0, 2]),
        );
        assert!(apply(&mut rib, 1, &tagged, 3).is_empty());
        assert!(apply(&mut rib, 1, &announce(&["11.0.0.0/8"], &[1]), 4).is_empty());
        let routes = rib.routes(RibQuery::Address("10.1.0.1".parse().unwrap()), 9);
        assert_eq!(routes[0].route.received_at, at(1));
    }

    #[test]
    fn a_lost_session_makes_routes_stale_and_the_next_one_sorts_them_out() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1", "10.2.0.1", "10.3.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(
            &mut rib,
            1,
            &announce(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"], &[1]),
            1,
        );
        assert_eq!(apply(&mut rib, 1, &end(), 1), ["end ipv6=false"]);
        let down = rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
        assert_eq!(
            said(&down),
            [
                "down a",
                "10.1.0.1 by a: 10.1.0.0/16 [1] stale",
                "10.2.0.1 by a: 10.2.0.0/16 [1] stale",
                "10.3.0.1 by a: 10.3.0.0/16 [1] stale"
            ]
        );
        assert!(
            rib.session_down(A, 1, SessionDownReason::Administrative)
                .is_empty()
        );
        assert!(rib.status(A).stale);
        assert!(rib.routes(RibQuery::All, 9).iter().all(|route| route.stale));

        assert_eq!(said(&rib.session_up(A, 2, &negotiated(), at(9))), ["up a"]);
        assert!(!rib.status(A).stale);
        assert_eq!(
            apply(&mut rib, 2, &announce(&["10.1.0.0/16"], &[1]), 10),
            ["10.1.0.1 by a: 10.1.0.0/16 [1]"],
            "the same again is no change, but it is fresh"
        );
        assert_eq!(
            apply(&mut rib, 2, &announce(&["10.2.0.0/16"], &[7]), 10),
            [
                "10.2.0.0/16 [1] -> 10.2.0.0/16 [7] for 10.2.0.1",
                "10.2.0.1 by a: 10.2.0.0/16 [7]"
            ]
        );
        assert_eq!(
            apply(&mut rib, 2, &end(), 11),
            [
                "end ipv6=false",
                "10.3.0.0/16 [1] -> none for 10.3.0.1",
                "10.3.0.1 by a: none"
            ]
        );
    }

    #[test]
    fn without_end_of_rib_the_deadline_completes_the_table() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1", "10.9.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
        rib.session_down(A, 1, SessionDownReason::Administrative);
        assert_eq!(rib.deadline(), None);
        rib.session_up(A, 2, &negotiated(), at(10));
        let due = at(10) + END_OF_RIB_WAIT;
        assert_eq!(rib.deadline(), Some(due));
        assert!(rib.expire(at(11)).is_empty());
        assert_eq!(
            said(&rib.expire(due)),
            [
                "10.1.0.0/16 [1] -> none for 10.1.0.1",
                "10.1.0.1 by a: none",
                "10.9.0.1 by a: none"
            ]
        );
        assert_eq!(rib.deadline(), None);
        assert_eq!(
            rib.attribute_sets(),
            0,
            "nothing refers to the attributes any more"
        );
    }

    /// RFC 4724 section 4.2.
    #[test]
    fn a_restart_keeps_the_families_whose_forwarding_went_on() {
        let restart = |forwarding: Families| {
            Some(crate::open::GracefulRestart {
                time: 60,
                families: Families::BOTH,
                forwarding,
                ..Default::default()
            })
        };
        let all = ["10.1.0.0/16", "2001:db8::/32"];
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1", "2001:db8::1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        assert!(rib.restarted(A, 1, restart(Families::NONE)).is_empty());
        apply(&mut rib, 1, &announce(&all, &[1]), 1);
        rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
        assert_eq!(rib.routes(RibQuery::All, 9).len(), 2);
        rib.session_up(A, 2, &negotiated(), at(9));
        let only_ipv4 = Families {
            ipv4: true,
            ipv6: false,
        };
        assert_eq!(
            said(&rib.restarted(A, 2, restart(only_ipv4))),
            ["2001:db8::1 by a: none stale"],
            "forgotten, not withdrawn"
        );
        let left = rib.routes(RibQuery::All, 9);
        assert_eq!((left.len(), left[0].stale), (1, true));
        assert_eq!(
            apply(&mut rib, 2, &end(), 10),
            [
                "end ipv6=false",
                "10.1.0.0/16 [1] -> none for 10.1.0.1",
                "10.1.0.1 by a: none"
            ]
        );
    }

    #[test]
    fn without_graceful_restart_before_routes_wait_for_end_of_rib() {
        let mut rib = rib(100);
        rib.session_up(A, 1, &negotiated(), at(0));
        rib.restarted(A, 1, None);
        apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
        rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
        rib.session_up(A, 2, &negotiated(), at(9));
        rib.restarted(A, 2, None);
        assert_eq!(rib.status(A).ipv4, 1);
    }

    /// RFC 7313 section 4.
    #[test]
    fn a_refresh_withdraws_what_was_not_sent_again() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1", "10.2.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        let all = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"];
        apply(&mut rib, 1, &announce(&all, &[1]), 1);
        apply(&mut rib, 1, &end(), 1);
        assert!(rib.refresh_ended(A, 1, Family::Ipv4).is_empty(), "no begin");
        rib.refresh_began(A, 1, Family::Ipv4);
        assert!(apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 2).is_empty());
        let kept = rib.routes(RibQuery::All, 9);
        assert!(kept.len() == 3 && kept.iter().all(|route| !route.stale));
        assert_eq!(kept[0].route.received_at, at(1), "the same as before");
        assert_eq!(
            said(&rib.refresh_ended(A, 1, Family::Ipv4)),
            [
                "10.2.0.0/16 [1] -> none for 10.2.0.1",
                "10.2.0.1 by a: none"
            ]
        );
        assert_eq!((rib.status(A).ipv4, rib.status(A).ipv6), (1, 1));
        // A session that ends forgets what had begun.
        rib.refresh_began(A, 1, Family::Ipv4);
        rib.session_up(A, 2, &negotiated(), at(5));
        assert!(rib.refresh_ended(A, 2, Family::Ipv4).is_empty());
    }

    #[test]
    fn a_neighbour_is_removed_with_its_routes() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
        rib.session_down(A, 1, SessionDownReason::Administrative);
        assert_eq!(said(&rib.remove(A)), ["10.1.0.1 by a: none stale"]);
        assert!(rib.routes(RibQuery::All, 9).is_empty());
        assert_eq!(rib.attribute_sets(), 0);
    }

    #[test]
    fn both_markers_end_the_wait() {
        let mut rib = rib(100);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &end(), 1);
        assert!(rib.deadline().is_some());
        let end6 = Update {
            end_of_rib: Some(Family::Ipv6),
            ..Update::default()
        };
        assert_eq!(apply(&mut rib, 1, &end6, 1), ["end ipv6=true"]);
        assert_eq!(rib.deadline(), None);
        assert_eq!(rib.status(A).complete, Families::BOTH);
    }

    #[test]
    fn a_newer_session_ends_the_older_and_late_words_of_it_are_not_heard() {
        let mut rib = rib(100);
        watch(&mut rib, &["10.1.0.1"]);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
        assert_eq!(
            said(&rib.session_up(A, 2, &negotiated(), at(2))),
            ["down a", "10.1.0.1 by a: 10.1.0.0/16 [1] stale", "up a"]
        );
        assert!(apply(&mut rib, 1, &withdraw(&["10.1.0.0/16"]), 3).is_empty());
        assert!(
            rib.session_down(A, 1, SessionDownReason::Administrative)
                .is_empty()
        );
        assert_eq!(rib.status(A).ipv4, 1);
    }

    #[test]
    fn watching_later_says_what_is_known_by_neighbour_and_peer() {
        let mut rib = rib(100);
        for (id, session) in [(B, 1), (A, 2)] {
            rib.session_up(id, session, &negotiated(), at(0));
            rib.apply(id, session, &announce(&["10.0.0.0/8"], &[1]), at(1));
        }
        apply(&mut rib, 2, &end(), 1);
        assert_eq!(
            watch(&mut rib, &["10.1.0.1", "172.16.0.1"]),
            [
                "10.1.0.1 by a: 10.0.0.0/8 [1]",
                "172.16.0.1 by a: none",
                "10.1.0.1 by b: 10.0.0.0/8 [1]"
            ],
            "b's table is not complete: what it lacks is not known yet"
        );
        assert_eq!(
            watch(&mut rib, &["10.1.0.1", "10.1.0.2"]),
            [
                "10.1.0.2 by a: 10.0.0.0/8 [1]",
                "10.1.0.2 by b: 10.0.0.0/8 [1]"
            ]
        );
    }

    #[test]
    fn the_limit_of_prefixes_is_per_family_and_counts_no_replacement() {
        let mut rib = rib(2);
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(
            &mut rib,
            1,
            &announce(&["10.0.0.0/8", "11.0.0.0/8", "2001:db8::/32"], &[1]),
            1,
        );
        apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[2]), 1);
        let (_, exceeded) = rib.apply(A, 1, &announce(&["12.0.0.0/8"], &[1]), at(1));
        let exceeded = exceeded.unwrap();
        assert_eq!((exceeded.family, exceeded.limit), (Family::Ipv4, 2));
        assert!(
            exceeded
                .to_string()
                .contains("192.0.2.1: more than 2 Ipv4 prefixes")
        );
        assert_eq!(rib.status(A).ipv4, 2);
    }

    /// Random announcements and withdrawals against a list that is searched from end to end.
    #[test]
    fn agrees_with_a_model() {
        let mut state: u64 = 0x2545_f491_4f6c_dd1d;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state % below).unwrap()
        };
        let peers: Vec<IpAddr> = (0..16u8)
            .map(|n| IpAddr::from([10, n << 4, n, 1]))
            .collect();
        let mut rib = rib(10_000);
        rib.watch(peers.iter().copied().map(PeerKey).collect());
        rib.session_up(A, 1, &negotiated(), at(0));
        apply(&mut rib, 1, &end(), 0);
        let mut model: BTreeMap<Prefix, u32> = BTreeMap::new();
        let mut facts: BTreeMap<IpAddr, Option<(Prefix, u32)>> = BTreeMap::new();
        let best = |model: &BTreeMap<Prefix, u32>, peer: &IpAddr| {
            let covering = model.iter().filter(|(prefix, _)| prefix.contains(peer));
            covering
                .max_by_key(|(prefix, _)| prefix.prefix_len())
                .map(|(p, asn)| (*p, *asn))
        };
        let mut changes = 0;
        for step in 0..4000 {
            let length = u8::try_from(8 + next(7)).unwrap();
            let address = IpAddr::from((10 << 24 | next(1 << 24)).to_be_bytes());
            let prefix = Prefix::new(address, length).unwrap().trunc();
            let before: Vec<_> = peers.iter().map(|peer| best(&model, peer)).collect();
            let text = prefix.to_string();
            let update = if next(3) == 0 {
                model.remove(&prefix);
                withdraw(&[&text])
            } else {
                let asn = 1 + next(3);
                model.insert(prefix, asn);
                announce(&[&text], &[asn])
            };
            let (signals, _) = rib.apply(A, 1, &update, at(step));
            let mut changed = Vec::new();
            for signal in signals {
                match signal {
                    BgpSignal::Change(change) => {
                        changes += 1;
                        assert_eq!(change.prefix, prefix);
                        changed.extend(change.peers.iter().map(|peer| peer.0));
                    }
                    BgpSignal::Fact(fact) => {
                        let route = fact.route.map(|r| (r.prefix, r.as_path[0].0));
                        facts.insert(fact.peer.0, route);
                    }
                    other => panic!("{other:?}"),
                }
            }
            let expected: Vec<IpAddr> = peers
                .iter()
                .zip(before)
                .filter(|(peer, before)| best(&model, peer) != *before)
                .map(|(peer, _)| *peer)
                .collect();
            assert_eq!(changed, expected, "step {step}, {prefix}");
            for peer in &peers {
                let said = facts.get(peer).copied().flatten();
                assert_eq!(said, best(&model, peer), "step {step}");
            }
        }
        assert!(changes > 300, "{changes}");
        assert_eq!(rib.status(A).ipv4, model.len());
        assert_eq!(rib.attribute_sets(), 3);
    }
}
