//! Single peer.
//!
//! Opens when one peer fails lastingly while others are well. Closes when it progresses again, or
//! when its connections are gone and nothing more is heard of it.

use std::collections::BTreeSet;

use events::Verdict;

use super::{Finding, narrow};
use crate::case::{Case, is_wide};
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case, scene: &narrow::Scene<'_>) -> Option<Finding> {
    // One that is still backed off after a wide break is no news.
    if case.verdict.as_ref().is_some_and(is_wide) {
        return None;
    }
    let oldest = scene
        .failures
        .iter()
        .min_by_key(|f| (f.failing.at, f.key))?;
    let persisted = view.now >= oldest.failing.at + view.params.thresholds.single_persist;
    let class = narrow::Class {
        failing: BTreeSet::from([oldest.key]),
        ..narrow::Class::default()
    };
    let alone = scene.failures.len() <= 2 && scene.rest_is_well(&class);
    (persisted && alone).then(|| Finding {
        verdict: Verdict::SinglePeer { peer: oldest.key },
        affected: vec![oldest.key],
    })
}
