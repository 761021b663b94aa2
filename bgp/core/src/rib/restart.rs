//! What a neighbour's restart and refresh do to its routes (RFC 4724, RFC 7313), and its end.

use std::collections::BTreeSet;

use events::{BgpSignal, NeighborId, PeerKey, Prefix};

use super::Rib;
use crate::nlri::Family;
use crate::open::GracefulRestart;

impl Rib {
    /// What the neighbour of a session that is up now says of graceful restart; to be called after
    /// [`Rib::session_up`].
    ///
    /// Where the session before had graceful restart, and forwarding of a family did not go on, the
    /// family's old routes are forgotten at once (RFC 4724 section 4.2): no withdrawal, for nobody
    /// withdrew them, but they are not known any more.
    pub fn restarted(
        &mut self,
        id: NeighborId,
        session: u64,
        restart: Option<GracefulRestart>,
    ) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let Some(neighbor) = self.neighbors.get_mut(&id) else {
            return signals;
        };
        if neighbor.session != Some(session) {
            return signals;
        }
        let restart = restart.unwrap_or_default();
        let kept = std::mem::replace(&mut neighbor.kept, restart.families);
        let oldest = neighbor.session_generation;
        for family in Family::ALL {
            if kept.contains(family) && !restart.forwarding.contains(family) {
                self.forget(id, family, oldest, &mut signals);
            }
        }
        signals
    }

    /// BoRR: the neighbour begins to send a family's routes again. They stay as they are until it
    /// has ended; a refresh that had begun begins anew.
    pub fn refresh_began(&mut self, id: NeighborId, session: u64, family: Family) {
        if let Some(neighbor) = self.neighbors.get_mut(&id)
            && neighbor.session == Some(session)
        {
            neighbor.generation += 1;
            let generation = neighbor.generation;
            neighbor.refreshing.insert(family, generation);
        }
    }

    /// EoRR: what was not sent again since BoRR is withdrawn. Nothing happens without a BoRR
    /// (RFC 7313 section 4).
    pub fn refresh_ended(
        &mut self,
        id: NeighborId,
        session: u64,
        family: Family,
    ) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let begun = self.neighbors.get_mut(&id).and_then(|neighbor| {
            let current = neighbor.session == Some(session);
            current
                .then(|| neighbor.refreshing.remove(&family))
                .flatten()
        });
        if let Some(generation) = begun {
            self.sweep(id, family, generation, &mut signals);
        }
        signals
    }

    /// Forgets a neighbour with all its routes, without a withdrawal.
    pub fn remove(&mut self, id: NeighborId) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        for family in Family::ALL {
            self.forget(id, family, u32::MAX, &mut signals);
        }
        self.neighbors.remove(&id);
        self.facts.retain(|(neighbor, _), _| *neighbor != id);
        signals
    }

    /// Withdraws the family's routes of generations before `oldest`.
    pub(super) fn sweep(
        &mut self,
        id: NeighborId,
        family: Family,
        oldest: u32,
        signals: &mut Vec<BgpSignal>,
    ) {
        let mut touched = BTreeSet::new();
        for prefix in self.older(id, family, oldest) {
            self.withdraw(id, prefix, signals, &mut touched);
        }
        touched.extend(self.watched_of(family));
        self.refresh_facts(id, &touched, signals);
    }

    /// The same without withdrawals.
    fn forget(
        &mut self,
        id: NeighborId,
        family: Family,
        oldest: u32,
        signals: &mut Vec<BgpSignal>,
    ) {
        let gone = self.older(id, family, oldest);
        let Some(neighbor) = self.neighbors.get_mut(&id) else {
            return;
        };
        for prefix in gone {
            if let Some(old) = neighbor.table.remove(&prefix) {
                self.arena.release(old.attributes);
            }
        }
        let touched = self.watched_of(family);
        self.refresh_facts(id, &touched, signals);
    }

    fn older(&self, id: NeighborId, family: Family, oldest: u32) -> Vec<Prefix> {
        let Some(neighbor) = self.neighbors.get(&id) else {
            return Vec::new();
        };
        let routes = neighbor.table.iter(family);
        let older = routes.filter(|(_, entry)| entry.generation < oldest);
        older.map(|(prefix, _)| prefix).collect()
    }

    fn watched_of(&self, family: Family) -> BTreeSet<PeerKey> {
        let of_family = |peer: &&PeerKey| Family::of(peer.0) == family;
        self.watched.iter().filter(of_family).copied().collect()
    }
}
