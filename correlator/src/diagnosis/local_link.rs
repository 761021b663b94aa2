//! Local link.
//!
//! Opens at once when an egress's interface loses carrier or goes down, and when neighbour
//! resolution of a gateway failed while no probe to it is answered. Closes when carrier is back,
//! the neighbour resolves, and the path answers for the time to heal.

use events::Verdict;

use super::{Finding, everyone};
use crate::case::Case;
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let carrier = view.host.down_since(&case.egress).is_some();
    if !carrier && !neighbor_failed(view, case) {
        return None;
    }
    Some(Finding {
        verdict: Verdict::LocalLink {
            egress: case.egress.clone(),
        },
        affected: everyone(view, case),
    })
}

/// Resolution failed, nothing answered since, and no probe tells that it is the gateway itself.
fn neighbor_failed(view: &View<'_>, case: &Case) -> bool {
    let Some(link) = view.host.links.get(&case.egress) else {
        return false;
    };
    let Some(failed_at) = link.unresolved.values().min() else {
        return false;
    };
    view.gateways(&case.egress, *failed_at).is_empty()
        && !view
            .reach
            .of(&case.egress)
            .any(|w| w.answered_since(*failed_at))
}
