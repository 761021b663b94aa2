//! What a neighbour's restart and refresh do to its routes (RFC 4724, RFC 7313), and its end.

use std::collections::BTreeSet;

use events::{BgpSignal, NeighborId, PeerKey};

use super::change::{Outcome, Why, first_prefix, older};
use super::{Neighbor, Rib};
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
        let Some(neighbor) = self.neighbor_mut(id) else {
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
                self.drop_older(id, family, oldest, &mut signals);
            }
        }
        signals
    }

    /// BoRR: the neighbour begins to send a family's routes again. They stay as they are until it
    /// has ended; a refresh that had begun begins anew.
    pub fn refresh_began(&mut self, id: NeighborId, session: u64, family: Family) {
        if let Some(neighbor) = self.neighbor_mut(id)
            && neighbor.session == Some(session)
        {
            neighbor.generation += 1;
            let generation = neighbor.generation;
            neighbor.refreshing.insert(family, generation);
            neighbor.lack.refresh_began(family, None);
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
        let Some(neighbor) = self.neighbor_mut(id) else {
            return signals;
        };
        if neighbor.session == Some(session)
            && let Some(generation) = neighbor.refreshing.remove(&family)
        {
            neighbor.sweeps.push((first_prefix(family), generation));
            self.sweep(id, &mut signals);
            self.refresh_is_over(id, family, &mut signals);
        }
        signals
    }

    /// Forgets a neighbour with all its routes and their past, without a withdrawal.
    pub fn remove(&mut self, id: NeighborId) -> Vec<BgpSignal> {
        let mut signals = Vec::new();
        let Some(&index) = self.ids.get(&id) else {
            return signals;
        };
        for family in Family::ALL {
            self.drop_older(id, family, u32::MAX, &mut signals);
        }
        self.ids.remove(&id);
        self.facts.retain(|(neighbor, _), _| *neighbor != id);
        // Its place stays, so that the numbers of the others do, and is taken by the next.
        if let Some(gone) = self.neighbors.get_mut(index) {
            self.bytes = self.bytes.saturating_sub(gone.bytes);
            self.history.disown(gone.index);
            *gone = Neighbor::new(gone.config.clone(), gone.index, self.seed);
            self.vacant.push(index);
        }
        signals
    }

    fn drop_older(
        &mut self,
        id: NeighborId,
        family: Family,
        oldest: u32,
        signals: &mut Vec<BgpSignal>,
    ) {
        let Some(&index) = self.ids.get(&id) else {
            return;
        };
        let Some(neighbor) = self.neighbors.get(index) else {
            return;
        };
        let (gone, _) = older(&neighbor.table, first_prefix(family), oldest, usize::MAX);
        // What would be told of withdrawals is not: nobody withdrew anything.
        let mut outcome = Outcome::default();
        for nlri in gone {
            self.withdraw(index, nlri, Why::Swept, &mut outcome);
        }
        let of_family = |peer: &&PeerKey| Family::of(peer.0) == family;
        let touched: BTreeSet<PeerKey> = self.watched.iter().filter(of_family).copied().collect();
        self.refresh_facts(id, &touched, signals);
        self.weigh(index);
    }
}
