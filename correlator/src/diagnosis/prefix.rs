//! Prefix.
//!
//! Opens when lasting failures share one prefix, at least half of its peers fail, and other
//! prefixes of the same origin work (or the origin is not known). Closes as the remote AS does.

use events::Verdict;

use super::Finding;
use super::narrow::Scene;
use crate::case::Case;
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case, scene: &Scene<'_>) -> Option<Finding> {
    let (prefix, class) = scene.best_prefix(view, case)?;
    Some(Finding {
        verdict: Verdict::Prefix { prefix },
        affected: class.failing.into_iter().collect(),
    })
}
