//! UPDATEs.

use std::collections::BTreeSet;

use events::{BgpSignal, NeighborId, PeerKey, Prefix, RouteChange, Timestamp};

use super::facts::{self, covered_best, peers_within};
use super::{MaxPrefixes, Neighbor, Rib};
use crate::arena::Arena;
use crate::history::Change;
use crate::nlri::{Family, Nlri};
use crate::preference::Preference;
use crate::table::{Entry, Table};
use crate::update::Update;

/// Routes that one piece of a sweep looks at.
const SWEEP: usize = 2048;

/// Why a prefix has another route, or none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The neighbour said so.
    Told,
    /// It said so of a path, which is remembered already.
    Path,
    /// It did not announce the route again: when it went is unknown.
    Swept,
    /// There is no memory for it.
    LeftOut,
}

/// What an UPDATE leads to.
#[derive(Default)]
pub(super) struct Outcome {
    pub signals: Vec<BgpSignal>,
    pub touched: BTreeSet<PeerKey>,
}

impl Rib {
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
        self.tick(now);
        let mut outcome = Outcome::default();
        let Some(&index) = self.ids.get(&id) else {
            return (outcome.signals, None);
        };
        let current = |neighbor: &Neighbor| neighbor.session == Some(session);
        if !self.neighbors.get(index).is_some_and(current) {
            return (outcome.signals, None);
        }
        for nlri in &update.withdrawn {
            self.withdraw(index, *nlri, Why::Told, &mut outcome);
        }
        let mut exceeded = None;
        for announcement in &update.announced {
            if announcement.ineligible.is_some() {
                for nlri in &announcement.nlri {
                    self.withdraw(index, *nlri, Why::Told, &mut outcome);
                }
                continue;
            }
            let packed = announcement.attributes.pack();
            let Some(neighbor) = self.neighbors.get_mut(index) else {
                break;
            };
            let attributes = neighbor.arena.intern(&packed);
            for nlri in &announcement.nlri {
                exceeded = self.announce(index, *nlri, attributes, &mut outcome);
                if exceeded.is_some() {
                    break;
                }
            }
            if let Some(neighbor) = self.neighbors.get_mut(index) {
                neighbor.arena.forget(attributes);
            }
            if exceeded.is_some() {
                break;
            }
        }
        let Outcome {
            mut signals,
            touched,
        } = outcome;
        self.refresh_facts(id, &touched, &mut signals);
        self.tell_burst(id, &mut signals);
        if let Some(family) = update.end_of_rib {
            self.end_of_rib(id, family, &mut signals);
        }
        self.forget_history();
        self.weigh(index);
        (signals, exceeded)
    }

    fn announce(
        &mut self,
        index: usize,
        nlri: Nlri,
        attributes: u32,
        outcome: &mut Outcome,
    ) -> Option<MaxPrefixes> {
        let Nlri { prefix, path_id } = nlri;
        let family = Family::of_prefix(&prefix);
        let short = self.neighbors.get(index).is_some_and(|n| self.is_short(n));
        let unwatched = || peers_within(&self.watched, &prefix).next().is_none();
        if short && unwatched() {
            self.leave_out(index, nlri, outcome);
            return None;
        }
        let now = self.clock;
        let neighbor = self.neighbors.get_mut(index)?;
        let limit = neighbor.config.max_prefixes;
        let table = &neighbor.table;
        // What an earlier session left is not what the neighbour has now.
        if table.routes_of_session(family) >= limit as usize
            && !match path_id {
                None => table.get(&prefix),
                Some(path) => table.path(&prefix, path),
            }
            .is_some_and(|known| table.is_of_session(known))
        {
            return Some(MaxPrefixes {
                neighbor: neighbor.config.id,
                family,
                limit,
            });
        }
        let mut entry = Entry {
            received_at: now,
            attributes,
            generation: neighbor.generation,
        };
        let Some(path) = path_id else {
            // Paths with identifiers are of an earlier session.
            let paths: Vec<u32> = neighbor.table.paths(&prefix).map(|(id, _)| id).collect();
            let why = if paths.is_empty() {
                Why::Told
            } else {
                Why::Path
            };
            for path in paths {
                self.drop_path(index, prefix, path);
            }
            let neighbor = self.neighbors.get_mut(index)?;
            let old = neighbor.table.insert(prefix, entry);
            neighbor.came_again(old, now);
            self.replaced(index, prefix, old, Some(entry), why, outcome);
            return None;
        };
        let arena = &mut neighbor.arena;
        arena.keep(attributes);
        let old = neighbor.table.insert_path(prefix, path, entry);
        neighbor.came_again(old, now);
        if let Some(old) = old {
            if old.attributes == attributes {
                entry.received_at = old.received_at;
                neighbor.table.insert_path(prefix, path, entry);
            } else {
                let change = change(neighbor, prefix, Some(path), old, now);
                self.history.push(change);
            }
            self.forget(index, old.attributes);
        }
        self.choose(index, prefix, Why::Told, outcome);
        None
    }

    pub(super) fn withdraw(&mut self, index: usize, nlri: Nlri, why: Why, outcome: &mut Outcome) {
        let Nlri { prefix, path_id } = nlri;
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        let Some(path) = path_id else {
            // A session without path identifiers withdraws what one with them had announced.
            let paths: Vec<u32> = neighbor.table.paths(&prefix).map(|(id, _)| id).collect();
            for path in paths {
                let path_id = Some(path);
                self.withdraw(index, Nlri { prefix, path_id }, why, outcome);
            }
            let Some(neighbor) = self.neighbors.get_mut(index) else {
                return;
            };
            if let Some(old) = neighbor.table.remove(&prefix) {
                self.replaced(index, prefix, Some(old), None, why, outcome);
            }
            return;
        };
        self.drop_path(index, prefix, path);
        self.choose(index, prefix, why, outcome);
    }

    /// Takes a path away, without a word about the prefix's best.
    fn drop_path(&mut self, index: usize, prefix: Prefix, path: u32) {
        let now = self.clock;
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        if let Some(old) = neighbor.table.remove_path(&prefix, path) {
            let change = change(neighbor, prefix, Some(path), old, now);
            self.history.push(change);
            self.forget(index, old.attributes);
        }
    }

    /// Makes the best of the paths the prefix's route.
    fn choose(&mut self, index: usize, prefix: Prefix, why: Why, outcome: &mut Outcome) {
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        let arena = &neighbor.arena;
        let rank = |(id, entry): &(u32, Entry)| {
            let preference = Preference::of(arena.get(entry.attributes));
            (neighbor.is_stale(*entry), preference, *id)
        };
        let best = neighbor.table.paths(&prefix).min_by_key(rank);
        let old = neighbor.table.get(&prefix);
        let new = best.map(|(_, entry)| entry);
        if old == new {
            return;
        }
        match new {
            Some(new) => neighbor.table.insert(prefix, new),
            None => neighbor.table.remove(&prefix),
        };
        let why = if why == Why::Told { Why::Path } else { why };
        self.replaced(index, prefix, old, new, why, outcome);
    }

    /// The table has another route to a prefix, or none: everything that follows from that.
    fn replaced(
        &mut self,
        index: usize,
        prefix: Prefix,
        old: Option<Entry>,
        new: Option<Entry>,
        why: Why,
        outcome: &mut Outcome,
    ) {
        let now = self.clock;
        // A path's age and past are kept beside the best.
        let single = why != Why::Path;
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        if let Some(new) = new {
            neighbor.arena.add_route(new.attributes);
        }
        let same = match (old, new) {
            (Some(old), Some(new)) => old.attributes == new.attributes,
            _ => false,
        };
        if let (true, true, Some(old), Some(new)) = (same, single, old, new) {
            // Said again: the time of the first stands.
            let received_at = old.received_at;
            neighbor.table.insert(prefix, Entry { received_at, ..new });
        }
        let mut peers = peers_within(&self.watched, &prefix).peekable();
        if peers.peek().is_some() {
            let peers = covered_best(&neighbor.table, &prefix, peers);
            if !peers.is_empty() {
                outcome.touched.extend(peers.iter().copied());
                let vrps = &self.vrps;
                let route = |entry| facts::route(neighbor, vrps, prefix, entry);
                let (old_route, new_route) = (old.and_then(route), new.and_then(route));
                let same_route = match (&old_route, &new_route) {
                    (Some(old), Some(new)) => {
                        old.as_path == new.as_path && old.next_hop == new.next_hop
                    }
                    _ => false,
                };
                if same_route {
                    if let (Some(old), Some(new)) = (old, new)
                        && single
                    {
                        let received_at = old.received_at;
                        neighbor.table.insert(prefix, Entry { received_at, ..new });
                    }
                } else {
                    outcome.signals.push(BgpSignal::Change(RouteChange {
                        neighbor: neighbor.config.id,
                        egress: neighbor.config.egress.clone(),
                        prefix,
                        old: old_route,
                        new: new_route,
                        peers,
                    }));
                }
            }
        }
        let arena = &mut neighbor.arena;
        let changed = neighbor.complete.contains(Family::of_prefix(&prefix)) && !same;
        match why {
            Why::Told | Why::Path if changed => {
                let attributes = |entry: Entry| entry.attributes;
                let (old, new) = (old.map(attributes), new.map(attributes));
                neighbor.bursts.changed(arena, prefix, old, new, now);
            }
            Why::Told | Why::Path => {}
            Why::Swept | Why::LeftOut => neighbor.bursts.forget(arena, &prefix),
        }
        let Some(old) = old else { return };
        if single && !same {
            let change = change(neighbor, prefix, None, old, now);
            self.history.push(change);
        }
        neighbor.arena.remove_route(old.attributes);
    }

    fn forget(&mut self, index: usize, attributes: u32) {
        if let Some(neighbor) = self.neighbors.get_mut(index) {
            neighbor.arena.forget(attributes);
        }
    }

    /// Drops what is beyond the history's bounds.
    pub(super) fn forget_history(&mut self) {
        while let Some(gone) = self.history.expired(self.clock) {
            self.forget(gone.neighbor as usize, gone.attributes);
        }
    }

    fn end_of_rib(&mut self, id: NeighborId, family: Family, signals: &mut Vec<BgpSignal>) {
        signals.push(BgpSignal::EndOfRib {
            neighbor: id,
            ipv6: family == Family::Ipv6,
        });
        self.complete(id, family, signals);
        if let Some(neighbor) = self.neighbor_mut(id) {
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
    pub(super) fn complete(
        &mut self,
        id: NeighborId,
        family: Family,
        signals: &mut Vec<BgpSignal>,
    ) {
        let Some(neighbor) = self.neighbor_mut(id) else {
            return;
        };
        let start = first_prefix(family);
        let oldest = neighbor.session_generation;
        neighbor
            .sweeps
            .retain(|(at, _)| Family::of_prefix(at) != family);
        // In the first session nothing can be stale.
        if neighbor.generation > 1 {
            neighbor.sweeps.push((start, oldest));
        }
        if neighbor.families.contains(family) {
            neighbor.complete.insert(family);
        }
        self.sweep(id, signals);
        let of_family = |peer: &&PeerKey| Family::of(peer.0) == family;
        let watched = self.watched.iter().filter(of_family).copied().collect();
        self.refresh_facts(id, &watched, signals);
    }

    /// Withdraws what is stale in a piece of the tables that are being swept.
    pub(super) fn sweep(&mut self, id: NeighborId, signals: &mut Vec<BgpSignal>) {
        let Some(&index) = self.ids.get(&id) else {
            return;
        };
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        let Some((from, oldest)) = neighbor.sweeps.pop() else {
            return;
        };
        let (gone, last) = older(&neighbor.table, from, oldest, SWEEP);
        if let Some(last) = last {
            neighbor.sweeps.push((last, oldest));
        }
        let mut outcome = Outcome::default();
        for nlri in gone {
            self.withdraw(index, nlri, Why::Swept, &mut outcome);
        }
        signals.append(&mut outcome.signals);
        self.refresh_facts(id, &outcome.touched, signals);
    }

    /// A route that there is no memory for.
    fn leave_out(&mut self, index: usize, nlri: Nlri, outcome: &mut Outcome) {
        self.withdraw(index, nlri, Why::LeftOut, outcome);
        let now = self.clock;
        if let Some(neighbor) = self.neighbors.get_mut(index) {
            let family = Family::of_prefix(&nlri.prefix);
            neighbor.lack.left_out(family, now);
        }
    }
}

/// The history's entry for a route that is no more; it keeps the attributes.
fn change(
    neighbor: &mut Neighbor,
    prefix: Prefix,
    path_id: Option<u32>,
    old: Entry,
    at: Timestamp,
) -> Change {
    let arena: &mut Arena = &mut neighbor.arena;
    arena.keep(old.attributes);
    Change {
        at,
        received_at: old.received_at,
        attributes: old.attributes,
        neighbor: neighbor.index,
        path_id,
        prefix,
    }
}

/// Routes of earlier generations among so many prefixes of a table, and the last of these where the
/// table may go on behind it.
pub(super) fn older(
    table: &Table,
    from: Prefix,
    oldest: u32,
    at_most: usize,
) -> (Vec<Nlri>, Option<Prefix>) {
    let mut gone = Vec::new();
    let mut seen = 0;
    let mut last = None;
    for (prefix, entry) in table.iter_from(from, true).take(at_most) {
        seen += 1;
        last = Some(prefix);
        let before = gone.len();
        let paths = table.paths(&prefix);
        let paths = paths.filter(|(_, path)| path.generation < oldest);
        gone.extend(paths.map(|(path, _)| Nlri {
            prefix,
            path_id: Some(path),
        }));
        if gone.len() == before && entry.generation < oldest {
            gone.push(Nlri::from(prefix));
        }
    }
    (gone, last.filter(|_| seen == at_most))
}

/// The prefix that a table's walk begins at.
pub(super) fn first_prefix(family: Family) -> Prefix {
    match family {
        Family::Ipv4 => Prefix::V4(ipnet::Ipv4Net::default()),
        Family::Ipv6 => Prefix::V6(ipnet::Ipv6Net::default()),
    }
}
