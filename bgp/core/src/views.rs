//! Which of a monitored router's tables counts.
//!
//! A router may tell of a route up to three times: as its neighbour sent it, as its policy left it,
//! and as it chose it. The path of an egress is one, so for each router and egress one kind of table
//! counts, of those that it tells of: the Loc-RIB (RFC 9069), by which the router forwards; else
//! what its import policy let in, else what came in, else what it announces (RFC 8671).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use events::{BgpSignal, EgressName, Learned, NeighborId, RibView};

/// The choice, for all routers.
#[derive(Debug, Default)]
pub struct Views {
    choices: BTreeMap<(IpAddr, EgressName), Choice>,
}

#[derive(Debug)]
struct Choice {
    counts: RibView,
    up: BTreeSet<(u8, NeighborId)>,
}

const fn rank(view: RibView) -> u8 {
    match view {
        RibView::OutPrePolicy => 0,
        RibView::OutPostPolicy => 1,
        RibView::InPrePolicy => 2,
        RibView::InPostPolicy => 3,
        RibView::Loc => 4,
    }
}

const fn view(id: &NeighborId) -> Option<RibView> {
    match id.learned {
        Learned::Bmp { view, .. } => Some(view),
        _ => None,
    }
}

impl Views {
    /// Takes note of a signal; whether it is to go on. Where other tables count from here on, they
    /// are in the second value: what is known of their routes is to be told.
    ///
    /// While no table of a router is up, those count that did.
    pub fn pass(&mut self, signal: &BgpSignal) -> (bool, Vec<NeighborId>) {
        let (id, egress) = match signal {
            BgpSignal::SessionUp {
                neighbor, egress, ..
            }
            | BgpSignal::SessionDown {
                neighbor, egress, ..
            } => (neighbor, egress),
            BgpSignal::Fact(fact) => {
                return (self.counts(&fact.neighbor, &fact.egress), Vec::new());
            }
            BgpSignal::Change(change) => {
                return (self.counts(&change.neighbor, &change.egress), Vec::new());
            }
            BgpSignal::Burst(burst) => {
                return (self.counts(&burst.neighbor, &burst.egress), Vec::new());
            }
            BgpSignal::EndOfRib { .. } => return (true, Vec::new()),
        };
        let Learned::Bmp { router, view, .. } = id.learned else {
            return (true, Vec::new());
        };
        let choice = self.choices.entry((router, egress.clone()));
        let choice = choice.or_insert(Choice {
            counts: view,
            up: BTreeSet::new(),
        });
        let this = (rank(view), *id);
        match signal {
            BgpSignal::SessionUp { .. } => choice.up.insert(this),
            _ => choice.up.remove(&this),
        };
        let best = choice.up.last().and_then(|(_, id)| self::view(id));
        let mut told = Vec::new();
        if let Some(best) = best.filter(|best| *best != choice.counts) {
            choice.counts = best;
            let now = choice.up.iter().filter(|(of, _)| *of == rank(best));
            told.extend(now.map(|(_, id)| *id));
        }
        (true, told)
    }

    fn counts(&self, id: &NeighborId, egress: &EgressName) -> bool {
        let Learned::Bmp { router, view, .. } = id.learned else {
            return true;
        };
        let choice = self.choices.get(&(router, egress.clone()));
        choice.is_none_or(|choice| choice.counts == view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{Asn, RouteFact, SessionDownReason};

    fn table(view: RibView) -> NeighborId {
        NeighborId {
            address: [192, 0, 2, 7].into(),
            learned: Learned::Bmp {
                router: [192, 0, 2, 1].into(),
                distinguisher: 0,
                view,
            },
        }
    }

    fn up(neighbor: NeighborId, egress: &str) -> BgpSignal {
        BgpSignal::SessionUp {
            neighbor,
            asn: Asn(1),
            egress: egress.into(),
        }
    }

    fn down(neighbor: NeighborId) -> BgpSignal {
        BgpSignal::SessionDown {
            neighbor,
            egress: "a".into(),
            reason: SessionDownReason::Administrative,
        }
    }

    fn goes_on(views: &mut Views, neighbor: NeighborId, egress: &str) -> bool {
        let fact = RouteFact {
            peer: events::PeerKey([203, 0, 113, 7].into()),
            neighbor,
            egress: egress.into(),
            route: None,
            stale: false,
        };
        views.pass(&BgpSignal::Fact(fact)).0
    }

    #[test]
    fn of_a_router_and_egress_the_best_view_that_is_up_counts() {
        let [pre, post, loc] =
            [RibView::InPrePolicy, RibView::InPostPolicy, RibView::Loc].map(table);
        let mut views = Views::default();
        assert_eq!(views.pass(&up(pre, "a")), (true, vec![]));
        assert!(goes_on(&mut views, pre, "a"));
        assert_eq!(views.pass(&up(loc, "a")), (true, vec![loc]));
        assert_eq!(views.pass(&up(post, "a")), (true, vec![]));
        assert_eq!(views.pass(&up(post, "b")), (true, vec![]));
        let all = |views: &mut Views| [pre, post, loc].map(|id| goes_on(views, id, "a"));
        assert_eq!(all(&mut views), [false, false, true]);
        assert!(goes_on(&mut views, post, "b"), "of another egress");
        assert_eq!(views.pass(&down(loc)), (true, vec![post]));
        assert_eq!(all(&mut views), [false, true, false]);
        assert_eq!(views.pass(&down(pre)), (true, vec![]));
        assert_eq!(views.pass(&down(post)), (true, vec![]));
        assert_eq!(
            all(&mut views),
            [false, true, false],
            "it is stale, but known"
        );
        assert_eq!(views.pass(&up(pre, "a")), (true, vec![pre]));
        let session = NeighborId::session([192, 0, 2, 7].into());
        assert!(goes_on(&mut views, session, "a"), "ours always count");
    }
}
