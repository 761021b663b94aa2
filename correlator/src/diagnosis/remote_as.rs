//! Remote AS.
//!
//! Opens when lasting failures share an origin or transit AS, at least half of that AS's peers
//! fail, and the egress is otherwise well. Closes when four fifths of those peers progress over the
//! egress again, or answer probes through it, for the time to heal.

use events::Verdict;

use super::Finding;
use super::narrow::Scene;
use crate::case::Case;
use crate::view::View;

pub fn diagnose(view: &View<'_>, case: &Case, scene: &Scene<'_>) -> Option<Finding> {
    let (asn, class) = scene.best_as(view, case)?;
    // One prefix while others of the AS work is the prefix's fault.
    if let Some((_, prefix)) = scene.best_prefix(view, case)
        && prefix.failing.is_superset(&class.failing)
        && class.members > prefix.members
    {
        return None;
    }
    Some(Finding {
        verdict: Verdict::RemoteAs { asn },
        affected: class.failing.into_iter().collect(),
    })
}
