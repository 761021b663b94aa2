//! One incident per cause: a peer called dead alone turns out to be one of many.

use events::{Timestamp, Verdict};

use crate::case::Case;
use crate::correlator::{Correlator, Output};

impl Correlator {
    /// A larger verdict that names a single peer's takes in its case. Nothing was rerouted for that
    /// one, so nothing is taken back.
    pub(crate) fn merge(&mut self, now: Timestamp, out: &mut Vec<Output>) {
        let larger = |case: &Case, single: &Case| {
            let wide = matches!(
                case.verdict,
                Some(Verdict::Prefix { .. } | Verdict::RemoteAs { .. })
            ) || (case.verdict.is_some() && case.is_wide());
            let Some(Verdict::SinglePeer { peer }) = single.verdict else {
                return false;
            };
            let same = case.egress == single.egress && case.onset <= single.onset + CLUSTER;
            wide && same && (case.is_wide() || case.affected.contains_key(&peer))
        };
        let found = self.cases.iter().enumerate().find_map(|(place, single)| {
            let case = self.cases.iter().find(|case| larger(case, single))?;
            Some((place, case.number, case.id.clone(), single.id.clone()))
        });
        let Some((place, number, id, single)) = found else {
            return;
        };
        if let Some(case) = self.cases.iter_mut().find(|case| case.number == number) {
            case.relate(single);
        }
        if let Some(case) = self.cases.get_mut(place) {
            case.relate(id.clone());
        }
        self.end(place, now, &format!("part of {id}"), false, out);
    }
}

/// What began within this of the other is of one cause.
const CLUSTER: std::time::Duration = std::time::Duration::from_secs(3);
