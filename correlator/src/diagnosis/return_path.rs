//! Return path.
//!
//! Opens when probes with the flows' source stay unanswered through every egress while probes with
//! the link's own source are answered through one: packets leave, answers to the flows' address do
//! not come back, and no route of ours can mend that. It waits until every anchor that used to
//! answer the flows' source has had its say, because one answer is enough to act for some prefixes.
//! Closes when flow-source probes are answered through the egress for the time to heal.

use std::time::Duration;

use events::{EgressName, ProbeSource, ProbeTarget, Timestamp, Verdict};

use super::{Finding, everyone, upstream};
use crate::case::Case;
use crate::view::{Families, View, ases};

/// Suspects' flow-source probes must have had the time to come back.
const SUSPECTS_WAIT: Duration = Duration::from_millis(150);

/// Later than this what answers may have begun to just now, and the flows' source may follow.
const NEW: Duration = Duration::from_secs(1);
const FOLLOWS: Duration = Duration::from_millis(300);

/// An answer came to what was sent long enough ago for the flows' source to be answered as well.
fn lasting(view: &View<'_>, egress: &EgressName, bound: Timestamp, families: Families) -> bool {
    view.reach.of(egress).any(|w| {
        w.source == ProbeSource::Link
            && !matches!(w.target, ProbeTarget::Gateway(_))
            && families.has(w.target.address())
            && w.answered_between(bound, view.now - FOLLOWS)
    })
}

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let failures = upstream::of_now(view, case);
    let bound = view.surely_dark(case, &failures)?;
    if view.now < case.suspected_at + SUSPECTS_WAIT
        || !upstream::beyond_gateway(view, case, &failures, bound)
    {
        return None;
    }
    let families = view.families(case, &failures);
    let mut link_proven = false;
    let mut dark = Vec::new();
    for egress in &view.params.egresses {
        let name = &egress.name;
        if view.answered(name, ProbeSource::Flow, bound, families) {
            return None;
        }
        let flow = view.anchors(name, Some(ProbeSource::Flow), case.onset, families);
        let silent: Vec<_> = flow
            .iter()
            .copied()
            .filter(|a| a.window.misses(view.now) >= 2)
            .collect();
        if silent.len() < flow.len() || (!flow.is_empty() && ases(&silent) < ases(&flow).min(2)) {
            return None;
        }
        // Silence proves something only where the flows' source used to be answered.
        let proven = view.answered(name, ProbeSource::Link, bound, families)
            && (view.now < case.suspected_at + NEW || lasting(view, name, bound, families));
        link_proven |= proven && !flow.is_empty();
        if !proven {
            dark.push(name);
        }
    }
    if !link_proven {
        return None;
    }
    // Answers come in by the one egress that is dark for its own address as well, if there is one.
    let egress = match dark[..] {
        [only] => Some(only.clone()),
        _ => None,
    };
    let mut affected = everyone(view, case);
    affected.retain(|peer| families.has(peer.0));
    Some(Finding {
        verdict: Verdict::ReturnPath { egress },
        affected,
    })
}
