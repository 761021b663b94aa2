//! Return path.
//!
//! Opens when probes with the flows' source stay unanswered through every egress while probes with
//! the link's own source are answered through one: packets leave, answers to the flows' address do
//! not come back, and no route of ours can mend that. It waits until every anchor that used to
//! answer the flows' source has had its say, because one answer is enough to act for some prefixes.
//! Closes when flow-source probes are answered through the egress for the time to heal.

use std::time::Duration;

use events::{ProbeSource, Verdict};

use super::{Finding, everyone, upstream};
use crate::case::Case;
use crate::view::{Families, View, ases};

/// Suspects' flow-source probes must have had the time to come back.
const SUSPECTS_WAIT: Duration = Duration::from_millis(150);

pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    let failures = view.of_case(case);
    let bound = view.surely_dark(case, &failures)?;
    if view.now < case.suspected_at + SUSPECTS_WAIT
        || !upstream::beyond_gateway(view, case, &failures, bound)
    {
        return None;
    }
    let mut link_proven = false;
    for egress in &view.params.egresses {
        let name = &egress.name;
        if view.answered(name, ProbeSource::Flow, bound) {
            return None;
        }
        let flow = view.anchors(name, Some(ProbeSource::Flow), case.onset, Families::BOTH);
        let silent: Vec<_> = flow
            .iter()
            .copied()
            .filter(|a| a.window.misses(view.now) >= 2)
            .collect();
        if silent.len() < flow.len() || (!flow.is_empty() && ases(&silent) < ases(&flow).min(2)) {
            return None;
        }
        if *name != case.egress {
            // Silence proves something only where the flows' source used to be answered.
            let proven = view.answered(name, ProbeSource::Link, bound);
            link_proven |= proven && !flow.is_empty();
        }
    }
    if !link_proven {
        return None;
    }
    let own_link_dark = !view.answered(&case.egress, ProbeSource::Link, bound);
    Some(Finding {
        verdict: Verdict::ReturnPath {
            egress: own_link_dark.then(|| case.egress.clone()),
        },
        affected: everyone(view, case),
    })
}
