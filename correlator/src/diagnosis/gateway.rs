//! Gateway.
//!
//! Opens when every gateway address of an egress that used to answer has missed three probes in a
//! row while there is carrier, another egress answers, no anchor answers through this one, and
//! something else agrees: an anchor's loss, TCP's evidence, or twice as many misses. A gateway that
//! only stopped answering probes keeps forwarding, and anchors show it. Closes when gateway and
//! anchors answer for the time to heal.

use events::{ProbeTarget, Verdict};

use super::{Finding, everyone};
use crate::case::Case;
use crate::view::{Families, View};

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let t = &view.params.thresholds;
    let gateways = view.gateways(&case.egress, case.onset);
    let misses = gateways.iter().map(|w| w.misses(view.now)).min()?;
    if misses < t.gateway_misses {
        return None;
    }
    let bound = gateways
        .iter()
        .filter_map(|w| Some(w.dark_since(view.now)? + w.rtt.unwrap_or_default()))
        .max()?;
    let forwards = view
        .reach
        .of(&case.egress)
        .any(|w| !matches!(w.target, ProbeTarget::Gateway(_)) && w.answered_since(bound));
    if forwards {
        return None;
    }
    let failures = view.of_case(case);
    let anchors = view.anchors(&case.egress, None, case.onset, Families::BOTH);
    let anchor_lost = anchors.iter().any(|a| a.window.misses(view.now) >= 1);
    let agrees =
        anchor_lost || view.tally(&failures).score >= t.suspect || misses >= 2 * t.gateway_misses;
    let elsewhere = view.others(&case.egress).next().is_none()
        || view
            .others(&case.egress)
            .any(|other| view.reach.of(other).any(|w| w.answered_since(bound)));
    (agrees && elsewhere).then(|| Finding {
        verdict: Verdict::Gateway {
            egress: case.egress.clone(),
        },
        affected: everyone(view, case),
    })
}
