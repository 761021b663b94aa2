//! Bounded memory: what is left out first when there is not enough, and how it comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use events::{BgpSignal, NeighborId, PeerKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::{END_OF_RIB_WAIT, Neighbor, Rib};
use crate::nlri::{Families, Family};

/// How often it is looked at whether there is memory again.
const LOOK: Duration = Duration::from_secs(10);
/// Between two refreshes that are asked of a neighbour for want of routes: a table is much work.
const ASK_AGAIN: Duration = Duration::from_mins(10);

/// What the RIB takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibMemory {
    /// Bytes of all tables, attributes, counters and the history.
    pub bytes: usize,
    /// Those of the history's ring.
    pub history_bytes: usize,
    /// Changes in the history.
    pub history_changes: usize,
    /// The bound, if there is one.
    pub limit: Option<usize>,
    /// Routes of some neighbour that cover no watched address are left out at the moment.
    pub short: bool,
}

/// What a table lacks for want of memory.
#[derive(Debug, Default)]
pub(super) struct Lack {
    /// Families of which routes were left out, and since when any were.
    families: Families,
    pub since: Timestamp,
    /// And again since the last refresh began.
    again: Families,
    /// When a refresh without marks (RFC 2918) is taken to have ended.
    ends: BTreeMap<Family, Timestamp>,
    /// When it is looked at whether a refresh would help.
    look: Option<Timestamp>,
}

impl Lack {
    pub fn is_partial(&self) -> bool {
        self.families != Families::NONE
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        self.ends.values().copied().chain(self.look).min()
    }

    pub fn left_out(&mut self, family: Family, now: Timestamp) {
        if !self.is_partial() {
            self.since = now;
        }
        self.families.insert(family);
        self.again.insert(family);
        self.look.get_or_insert(now + LOOK);
    }

    /// Everything will be sent again: `ends` is when that is over, unless a mark says so.
    pub fn refresh_began(&mut self, family: Family, ends: Option<Timestamp>) {
        self.again.remove(family);
        match ends {
            Some(ends) => self.ends.insert(family, ends),
            None => self.ends.remove(&family),
        };
    }

    /// True: the family lacks nothing any more.
    pub fn refresh_ended(&mut self, family: Family) -> bool {
        self.ends.remove(&family);
        let whole = self.families.contains(family) && !self.again.contains(family);
        if whole {
            self.families.remove(family);
            if !self.is_partial() {
                self.look = None;
            }
        }
        whole
    }
}

impl Rib {
    /// What the RIB takes.
    ///
    /// With a limit, once it is reached, routes that cover no watched address are not stored any
    /// more, and those that are there go when they are announced anew: what is freed serves the
    /// routes that do cover one, and those are always stored. A neighbour whose routes were left
    /// out is `partial` ([`super::TableStatus`]): shares of its links are estimates, and that a
    /// prefix is missing says nothing. When a quarter of the limit is free again, the neighbour is
    /// to be asked for its routes ([`Self::take_refreshes`]).
    #[must_use]
    pub fn memory(&self) -> RibMemory {
        RibMemory {
            bytes: self.bytes + self.history.mem_size(),
            history_bytes: self.history.mem_size(),
            history_changes: self.history.len(),
            limit: self.limits.memory,
            short: self.neighbors.iter().any(|n| self.is_short(n)),
        }
    }

    /// What counts for a neighbour: its table can take routes in place of those that went.
    fn used(&self, neighbor: &Neighbor) -> usize {
        let slack = neighbor.table.slack() + neighbor.arena.slack();
        (self.bytes + self.history.mem_size()).saturating_sub(slack)
    }

    pub(super) fn is_short(&self, neighbor: &Neighbor) -> bool {
        let limit = self.limits.memory;
        limit.is_some_and(|limit| self.used(neighbor) >= limit)
    }

    /// Notes what a neighbour takes.
    pub(super) fn weigh(&mut self, index: usize) {
        let Some(neighbor) = self.neighbors.get_mut(index) else {
            return;
        };
        let bytes =
            neighbor.table.mem_size() + neighbor.arena.mem_size() + neighbor.bursts.mem_size();
        self.bytes = (self.bytes + bytes).saturating_sub(neighbor.bytes);
        neighbor.bytes = bytes;
    }

    /// A table that lacked routes since then lacks none any more: its past still does.
    pub(super) fn mended(&mut self, since: Timestamp) {
        let since = self.lacked.map_or(since, |(first, _)| first.min(since));
        self.lacked = Some((since, self.clock));
    }

    /// Whether routes of that time were left out.
    pub(super) fn was_partial(&self, at: Option<Timestamp>) -> bool {
        let lacks = |neighbor: &Neighbor| {
            neighbor.lack.is_partial() && at.is_none_or(|at| at >= neighbor.lack.since)
        };
        let lacked = |(since, until)| at.is_some_and(|at| at >= since && at < until);
        self.neighbors.iter().any(lacks) || self.lacked.is_some_and(lacked)
    }

    /// A neighbour was asked for a family's routes (RFC 2918).
    pub fn refresh_asked(&mut self, id: NeighborId, session: u64, family: Family) {
        let ends = self.clock + END_OF_RIB_WAIT;
        if let Some(neighbor) = self.neighbor_mut(id)
            && neighbor.session == Some(session)
        {
            neighbor.lack.refresh_began(family, Some(ends));
        }
    }

    /// Neighbours that are to be asked for their routes, because there is memory for what was left
    /// out of these families.
    pub fn take_refreshes(&mut self) -> Vec<(NeighborId, Families)> {
        std::mem::take(&mut self.refreshes)
    }

    /// Looks after a table that lacks routes.
    pub(super) fn repair(&mut self, id: NeighborId, signals: &mut Vec<BgpSignal>) {
        let now = self.clock;
        let due = |neighbor: &Neighbor| neighbor.lack.deadline().is_some_and(|at| at <= now);
        if !self.neighbor(id).is_some_and(due) {
            return;
        }
        if let Some(&index) = self.ids.get(&id) {
            // A burst that has ended takes nothing any more.
            self.weigh(index);
        }
        let Some(neighbor) = self.neighbor(id) else {
            return;
        };
        let lack = &neighbor.lack;
        let over = lack.ends.iter().filter(|(_, ends)| **ends <= now);
        let over: Vec<Family> = over.map(|(family, _)| *family).collect();
        let look = lack.look.is_some_and(|look| look <= now);
        let free = self
            .limits
            .memory
            .is_none_or(|limit| self.used(neighbor) <= limit / 4 * 3);
        let (families, up) = (lack.families, neighbor.session.is_some());
        for family in over {
            self.refresh_is_over(id, family, signals);
        }
        if let Some(neighbor) = self.neighbor_mut(id)
            && look
            && neighbor.lack.is_partial()
        {
            let ask = free && up;
            neighbor.lack.look = Some(now + if ask { ASK_AGAIN } else { LOOK });
            if ask {
                self.refreshes.push((id, families));
            }
        }
    }

    /// What a neighbour sent again is all that it has.
    pub(super) fn refresh_is_over(
        &mut self,
        id: NeighborId,
        family: Family,
        signals: &mut Vec<BgpSignal>,
    ) {
        let whole = |neighbor: &mut Neighbor| neighbor.lack.refresh_ended(family);
        if self.neighbor_mut(id).is_some_and(whole) {
            let lack = self.neighbor(id).map(|neighbor| &neighbor.lack);
            if let Some(since) = lack
                .filter(|lack| !lack.is_partial())
                .map(|lack| lack.since)
            {
                self.mended(since);
            }
            let of_family = |peer: &&PeerKey| Family::of(peer.0) == family;
            let watched = self.watched.iter().filter(of_family).copied().collect();
            self.refresh_facts(id, &watched, signals);
        }
    }
}
