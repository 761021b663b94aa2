//! Bounded memory: what is left out first when there is not enough.

use serde::{Deserialize, Serialize};

use super::Rib;

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
    /// Routes that cover no watched address are left out at the moment.
    pub short: bool,
}

impl Rib {
    /// What the RIB takes.
    ///
    /// With a limit, once it is reached, routes that cover no watched address are not stored any
    /// more, and those that are there go when they are announced anew: what is freed serves the
    /// routes that do cover one, and those are always stored. A neighbour whose routes were left
    /// out is `partial` ([`super::TableStatus`]) until its next session: shares of its links are
    /// estimates, and that a prefix is missing says nothing.
    #[must_use]
    pub fn memory(&self) -> RibMemory {
        RibMemory {
            bytes: self.bytes + self.history.mem_size(),
            history_bytes: self.history.mem_size(),
            history_changes: self.history.len(),
            limit: self.limits.memory,
            short: self.is_short(),
        }
    }

    pub(super) fn is_short(&self) -> bool {
        let limit = self.limits.memory;
        limit.is_some_and(|limit| self.bytes + self.history.mem_size() >= limit)
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
}
