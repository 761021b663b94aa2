//! Total isolation.
//!
//! Opens, as the primary's case, when each of two or more egresses is dead: no carrier, or its gateway or its anchors stay
//! silent for probes with either source, and no peer is reached through it. With a single egress the break is named by its place
//! instead. Closes when an egress answers: the case then gets the verdict of what is still broken,
//! or heals.

use events::{EgressName, ProbeTarget, Verdict};

use super::Finding;
use crate::case::Case;
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let egresses = &view.params.egresses;
    let primary = egresses.first().map(|e| &e.name) == Some(&case.egress);
    if !primary || egresses.len() < 2 || !egresses.iter().all(|e| dead(view, &e.name)) {
        return None;
    }
    Some(Finding {
        verdict: Verdict::TotalIsolation,
        affected: view
            .peers
            .map
            .iter()
            .filter(|(_, peer)| !peer.connections.is_empty())
            .map(|(key, _)| *key)
            .collect(),
    })
}

/// Nothing gets through an egress.
pub fn dead(view: &View<'_>, egress: &EgressName) -> bool {
    if view.host.down_since(egress).is_some() {
        return true;
    }
    silent(view, egress) && !still_reached(view, egress)
}

/// Somebody behind the anchors is reached although all of those are silent: they have something in
/// common that the egress has not.
fn still_reached(view: &View<'_>, egress: &EgressName) -> bool {
    let windows = || view.reach.of(egress);
    let anchors = windows().filter(|w| matches!(w.target, ProbeTarget::Anchor(_)));
    let dark = anchors.filter_map(|w| Some(w.dark_since(view.now)? + w.rtt.unwrap_or_default()));
    let Some(dark) = dark.max() else {
        return false;
    };
    windows().any(|w| matches!(w.target, ProbeTarget::Suspect(_)) && w.answered_since(dark))
        || view.peers.map.values().any(|peer| {
            let routed = peer.route.as_ref().is_none_or(|r| r.changed_at < dark);
            routed
                && *peer.egress(&view.peers.default) == *egress
                && peer.delivered.is_some_and(|at| at > dark)
        })
}

fn silent(view: &View<'_>, egress: &EgressName) -> bool {
    let t = &view.params.thresholds;
    // What never answered says nothing; what died long ago still is dead.
    let usable: Vec<_> = view
        .reach
        .of(egress)
        .filter(|w| w.last_reply.is_some())
        .collect();
    let all_missed = |gateways: bool, misses: usize| {
        let mut seen = false;
        usable
            .iter()
            .filter(|w| !matches!(w.target, ProbeTarget::Suspect(_)))
            .filter(|w| matches!(w.target, ProbeTarget::Gateway(_)) == gateways)
            .all(|w| {
                seen = true;
                w.misses(view.now) >= misses
            })
            && seen
    };
    // A delay that grew everywhere looks like this until the late answers come, and nothing is lost
    // by patience: no action is possible.
    let anchors_dark = all_missed(false, 2 * t.anchor_misses);
    let no_anchors = !usable
        .iter()
        .any(|w| matches!(w.target, ProbeTarget::Anchor(_)));
    let gateway_dark = all_missed(true, 2 * t.gateway_misses);
    let gateway_silent = all_missed(true, t.gateway_misses);
    let anchors_silent = no_anchors || all_missed(false, 1);
    anchors_dark || (gateway_silent && anchors_silent && (gateway_dark || !no_anchors))
}
