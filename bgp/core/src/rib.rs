//! The RIB of all neighbours, and the signals that its changes are.

mod change;
mod facts;
mod memory;
mod query;
mod restart;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use events::{
    Asn, BgpSignal, Burst, EgressName, NeighborId, PeerKey, Prefix, RouteFact, SessionDownReason,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::arena::Arena;
use crate::burst::Bursts;
use crate::history::{History, HistoryLimits};
use crate::nlri::{Families, Family};
use crate::session::Negotiated;
use crate::table::{Entry, Table};
use crate::validation::Vrps;
use memory::Lack;

pub use memory::RibMemory;
pub use query::{RibPage, RibRequest, RibWalk};

/// How long a new session has for its End-of-RIB, from its begin or from when an old route came again
/// last; then what it did not announce again is withdrawn. Neighbours without graceful restart need
/// not send the marker at all.
pub const END_OF_RIB_WAIT: Duration = Duration::from_mins(2);
/// Sessions of a neighbour whose times are remembered.
const SESSIONS: usize = 256;

/// A neighbour as the RIB needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborConfig {
    /// Its address.
    pub id: NeighborId,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// The most routes that it may have, per family: prefixes, or paths where it sends several.
    pub max_prefixes: u32,
}

/// What bounds the RIB. By default only the history is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RibLimits {
    /// Bytes of all tables; see [`Rib::memory`].
    pub memory: Option<usize>,
    /// The change history.
    pub history: HistoryLimits,
}

/// Figures of one neighbour's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// IPv4 prefixes.
    pub ipv4: usize,
    /// IPv6 prefixes.
    pub ipv6: usize,
    /// What counts against the limit of prefixes, IPv4 and IPv6: routes of this session, and of a
    /// prefix with several paths each of them.
    pub limited: (usize, usize),
    /// There are routes, and the session that they came by is lost.
    pub stale: bool,
    /// Families whose End-of-RIB has come in this session.
    pub complete: Families,
    /// Routes were left out for want of memory. They come back with a route refresh, which is asked
    /// for when there is memory again, or with the next session.
    pub partial: bool,
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
    /// The index in [`Rib::neighbors`].
    index: u32,
    asn: Asn,
    table: Table,
    arena: Arena,
    bursts: Bursts,
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
    /// Tables that are searched for routes before a generation, each from a prefix on.
    sweeps: Vec<(Prefix, u32)>,
    /// When sessions began and ended.
    sessions: VecDeque<(Timestamp, bool)>,
    lack: Lack,
    /// What it takes, when last looked at.
    bytes: usize,
}

impl Neighbor {
    fn new(config: NeighborConfig, index: u32, seed: u64) -> Self {
        Self {
            config,
            index,
            asn: Asn(0),
            table: Table::default(),
            arena: Arena::new(seed),
            bursts: Bursts::default(),
            generation: 0,
            session_generation: 0,
            refreshing: BTreeMap::new(),
            kept: Families::NONE,
            session: None,
            families: Families::default(),
            complete: Families::default(),
            end_of_rib_due: None,
            sweeps: Vec::new(),
            sessions: VecDeque::new(),
            lack: Lack::default(),
            bytes: 0,
        }
    }

    const fn is_stale(&self, entry: Entry) -> bool {
        self.session.is_none() || entry.generation < self.session_generation
    }

    fn routes(&self) -> usize {
        self.table.len(Family::Ipv4) + self.table.len(Family::Ipv6)
    }

    /// What an earlier session left comes again: without End-of-RIB the table may still be on its
    /// way.
    fn came_again(&mut self, old: Option<Entry>, now: Timestamp) {
        if old.is_some_and(|old| !self.table.is_of_session(old))
            && let Some(due) = &mut self.end_of_rib_due
        {
            *due = now + END_OF_RIB_WAIT;
        }
    }

    fn note_session(&mut self, at: Timestamp, up: bool) {
        if self.sessions.len() == SESSIONS {
            self.sessions.pop_front();
        }
        self.sessions.push_back((at, up));
    }
}

/// All neighbours' routes. Methods return signals in the order in which they are to be sent.
#[derive(Debug, Default)]
pub struct Rib {
    ids: BTreeMap<NeighborId, usize>,
    neighbors: Vec<Neighbor>,
    /// Places in it that are free.
    vacant: Vec<usize>,
    watched: BTreeSet<PeerKey>,
    facts: BTreeMap<(NeighborId, PeerKey), RouteFact>,
    vrps: Arc<Vrps>,
    /// Facts whose validation may have changed.
    revalidate: VecDeque<(NeighborId, PeerKey)>,
    history: History,
    limits: RibLimits,
    /// When tables lacked routes that lack none any more, from the first of them to the last.
    lacked: Option<(Timestamp, Timestamp)>,
    /// Whom to ask for a refresh.
    refreshes: Vec<(NeighborId, Families)>,
    /// What all neighbours take, when last looked at.
    bytes: usize,
    seed: u64,
    /// The latest time that was told.
    clock: Timestamp,
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

    /// An empty RIB without neighbours.
    ///
    /// Equal seeds make equal hash tables. Neighbours should not know the seed: they could choose
    /// attributes that collide.
    #[must_use]
    pub fn bounded(limits: RibLimits, seed: u64, now: Timestamp) -> Self {
        Self {
            limits,
            history: History::new(limits.history, now),
            seed,
            clock: now,
            ..Self::default()
        }
    }

    /// A neighbour more, without routes. Nothing happens where it is known.
    pub fn add(&mut self, config: NeighborConfig) {
        let id = config.id;
        if self.ids.contains_key(&id) {
            return;
        }
        let index = self.vacant.pop().unwrap_or(self.neighbors.len());
        // Each neighbour has its own tables: 2^32 of them do not fit into memory.
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let neighbor = Neighbor::new(config, number, self.seed);
        match self.neighbors.get_mut(index) {
            Some(place) => *place = neighbor,
            None => self.neighbors.push(neighbor),
        }
        self.ids.insert(id, index);
    }

    fn neighbor(&self, id: NeighborId) -> Option<&Neighbor> {
        self.neighbors.get(*self.ids.get(&id)?)
    }

    fn neighbor_mut(&mut self, id: NeighborId) -> Option<&mut Neighbor> {
        self.neighbors.get_mut(*self.ids.get(&id)?)
    }

    /// A session is Established. `session` is greater than that of any earlier session.
    pub fn session_up(
        &mut self,
        id: NeighborId,
        session: u64,
        negotiated: &Negotiated,
        now: Timestamp,
    ) -> Vec<BgpSignal> {
        self.tick(now);
        let now = self.clock;
        let mut signals = Vec::new();
        let Some(old) = self.neighbor(id).map(|neighbor| neighbor.session) else {
            return signals;
        };
        if let Some(old) = old {
            let reason = SessionDownReason::ConnectionLost {
                text: "a new session took its place".to_owned(),
            };
            signals = self.session_down(id, old, reason);
        }
        let lack = self.neighbor(id).map(|neighbor| &neighbor.lack);
        if let Some(since) = lack.filter(|lack| lack.is_partial()).map(|lack| lack.since) {
            self.mended(since);
        }
        if let Some(neighbor) = self.neighbor_mut(id) {
            neighbor.session = Some(session);
            neighbor.asn = negotiated.asn;
            neighbor.generation += 1;
            neighbor.session_generation = neighbor.generation;
            neighbor.table.begin_session(neighbor.generation);
            neighbor.refreshing.clear();
            neighbor.families = negotiated.context.families;
            neighbor.complete = Families::default();
            // Of a feed that has changes alone (families: none) no table is ever complete.
            let whole = neighbor.families != Families::NONE;
            neighbor.end_of_rib_due = whole.then_some(now + END_OF_RIB_WAIT);
            neighbor.lack = Lack::default();
            neighbor.note_session(now, true);
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
        let now = self.clock;
        let Some(neighbor) = self.neighbor_mut(id) else {
            return signals;
        };
        if neighbor.session != Some(session) {
            return signals;
        }
        neighbor.session = None;
        neighbor.complete = Families::default();
        neighbor.end_of_rib_due = None;
        neighbor.sweeps.clear();
        neighbor.bursts.clear(&mut neighbor.arena);
        neighbor.note_session(now, false);
        signals.push(BgpSignal::SessionDown {
            neighbor: id,
            egress: neighbor.config.egress.clone(),
            reason,
        });
        let watched = self.watched.clone();
        self.refresh_facts(id, &watched, &mut signals);
        signals
    }

    /// What happens from here on happens at this time, or later.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = self.clock.max(now);
    }

    /// When [`Self::expire`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let at_once = (!self.revalidate.is_empty()).then_some(Timestamp::ZERO);
        let each = self.neighbors.iter().flat_map(|neighbor| {
            let sweep = (!neighbor.sweeps.is_empty()).then_some(Timestamp::ZERO);
            [
                sweep,
                neighbor.end_of_rib_due,
                neighbor.bursts.deadline(),
                neighbor.lack.deadline(),
            ]
        });
        each.flatten().chain(at_once).min()
    }

    /// Takes the tables of sessions whose End-of-RIB is overdue for complete, tells of bursts, and
    /// goes on with work that is done in pieces: a call takes well below a millisecond.
    pub fn expire(&mut self, now: Timestamp) -> Vec<BgpSignal> {
        self.tick(now);
        let mut signals = Vec::new();
        let ids: Vec<NeighborId> = self.ids.keys().copied().collect();
        for id in ids {
            let due = |neighbor: &Neighbor| neighbor.end_of_rib_due.is_some_and(|due| due <= now);
            if self.neighbor(id).is_some_and(due) {
                for family in Family::ALL {
                    self.complete(id, family, &mut signals);
                }
                if let Some(neighbor) = self.neighbor_mut(id) {
                    neighbor.end_of_rib_due = None;
                }
            } else {
                self.sweep(id, &mut signals);
            }
            self.tell_burst(id, &mut signals);
            self.repair(id, &mut signals);
        }
        self.forget_history();
        self.revalidate_some(&mut signals);
        signals
    }

    fn tell_burst(&mut self, id: NeighborId, signals: &mut Vec<BgpSignal>) {
        let now = self.clock;
        let Some(neighbor) = self.neighbor_mut(id) else {
            return;
        };
        let routes = neighbor.routes();
        let Some(report) = neighbor.bursts.poll(&mut neighbor.arena, routes, now) else {
            return;
        };
        signals.push(BgpSignal::Burst(Burst {
            neighbor: id,
            egress: neighbor.config.egress.clone(),
            since: report.since,
            prefixes: report.prefixes,
            links: report.links,
            ases: report.ases,
            partial: neighbor.lack.is_partial(),
        }));
    }

    /// Figures of a neighbour's table.
    #[must_use]
    pub fn status(&self, id: NeighborId) -> TableStatus {
        let Some(neighbor) = self.neighbor(id) else {
            return TableStatus::default();
        };
        let ipv4 = neighbor.table.len(Family::Ipv4);
        let ipv6 = neighbor.table.len(Family::Ipv6);
        TableStatus {
            ipv4,
            ipv6,
            limited: (
                neighbor.table.routes_of_session(Family::Ipv4),
                neighbor.table.routes_of_session(Family::Ipv6),
            ),
            stale: neighbor.session.is_none() && ipv4 + ipv6 > 0,
            complete: neighbor.complete,
            partial: neighbor.lack.is_partial(),
        }
    }

    /// How many neighbours' tables lack routes for want of memory.
    #[must_use]
    pub fn partial_neighbors(&self) -> usize {
        self.neighbors
            .iter()
            .filter(|n| n.lack.is_partial())
            .count()
    }

    /// How many different sets of attributes are stored, those that only the history remembers
    /// included.
    #[must_use]
    pub fn attribute_sets(&self) -> usize {
        let sets = |neighbor: &Neighbor| neighbor.arena.len();
        self.neighbors.iter().map(sets).sum()
    }
}
