//! Host stall.
//!
//! Opens when flows look overdue during a stall of this host (its timers fired late): the observer
//! is sick, the network is not blamed. Closes when the flows progress after it. If they do not, the
//! evidence counts from the stall's end on and another diagnosis takes over.

use events::Verdict;

use super::Finding;
use crate::case::Case;
use crate::suspicion;
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let stall = view.host.stall.filter(|s| !s.over)?;
    if case.suspected_at < stall.from {
        return None;
    }
    let vetoed = view.fresh_with_vetoed(&case.egress);
    let own = view.peers.map.iter().filter(|(key, peer)| {
        view.owners.get(key) == Some(&case.number) && peer.failure().is_some_and(|f| f.vetoed)
    });
    let affected: Vec<_> = vetoed
        .iter()
        .map(|f| f.key)
        .chain(own.map(|(key, _)| *key))
        .collect();
    (!affected.is_empty() && !suspicion::links_dark(view, &case.egress)).then_some(Finding {
        verdict: Verdict::HostStall,
        affected,
    })
}
