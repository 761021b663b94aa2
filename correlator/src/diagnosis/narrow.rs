//! What the diagnoses of small scope share: which peers fail lastingly, and what they have in common.

use std::collections::{BTreeMap, BTreeSet};

use events::{Asn, PeerKey, Prefix, ProbeSource, ProbeTarget};

use crate::case::Case;
use crate::tally::Failure;
use crate::view::{Families, View, ases};

/// A class of peers and how many of them fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub members: usize,
    pub failing: BTreeSet<PeerKey>,
}

impl Class {
    fn fails(&self) -> bool {
        self.failing.len() >= 2 && self.failing.len() * 2 >= self.members
    }
}

/// Failures that have lasted, once the wait is over and the egress itself is known to be well.
pub fn lasting<'a>(view: &View<'a>, case: &Case) -> Option<Vec<Failure<'a>>> {
    let t = &view.params.thresholds;
    if view.now < case.suspected_at + t.narrow_wait {
        return None;
    }
    let mut failures = view.of_case(case);
    failures.retain(|f| view.now >= f.failing.at + t.narrow_persist && !answers(view, case, f));
    let newest = failures.iter().map(Failure::surely_dark).max()?;
    (egress_well(view, case, newest, failures.len())).then_some(failures)
}

/// The path to a failing peer answers probes with the flows' source: its application is slow.
pub fn answers(view: &View<'_>, case: &Case, failure: &Failure<'_>) -> bool {
    view.reach
        .find(
            &case.egress,
            ProbeSource::Flow,
            ProbeTarget::Suspect(failure.key.0),
        )
        .is_some_and(|w| w.answered_since(failure.surely_dark()) && w.misses(view.now) == 0)
}

/// Anchors answer through the egress; without anchors, other peers do not fail.
fn egress_well(view: &View<'_>, case: &Case, since: events::Timestamp, failing: usize) -> bool {
    let anchors = view.anchors(&case.egress, None, case.onset, Families::BOTH);
    if anchors.is_empty() {
        let population = view.population(&case.egress, Families::BOTH);
        return population.peers == 1 || population.peers > failing;
    }
    let alive: Vec<_> = anchors
        .iter()
        .copied()
        .filter(|a| a.window.answered_since(since))
        .collect();
    !alive.is_empty() && ases(&alive) * 3 >= ases(&anchors)
}

/// The AS beyond the upstream that best explains the failures.
pub fn best_as(view: &View<'_>, case: &Case, failures: &[Failure<'_>]) -> Option<(Asn, Class)> {
    let failing: BTreeSet<PeerKey> = failures.iter().map(|f| f.key).collect();
    let mut classes: BTreeMap<Asn, (usize, Class)> = BTreeMap::new();
    for key in connected(view, case) {
        let Some(path) = view.routes.path(&key, &case.egress) else {
            continue;
        };
        for (hop, asn) in path.ases.iter().enumerate() {
            // The upstream itself is another diagnosis, unless the peer lives in it.
            if hop == 0 && path.ases.len() > 1 {
                continue;
            }
            let (depth, class) = classes.entry(*asn).or_insert_with(|| {
                let class = Class {
                    members: 0,
                    failing: BTreeSet::new(),
                };
                (hop, class)
            });
            *depth = (*depth).max(hop);
            class.members += 1;
            if failing.contains(&key) {
                class.failing.insert(key);
            }
        }
    }
    classes
        .into_iter()
        .filter(|(_, (_, class))| class.fails())
        // Most explained, then fewest others, then farthest from us.
        .max_by_key(|(_, (depth, class))| {
            (
                class.failing.len(),
                std::cmp::Reverse(class.members),
                *depth,
            )
        })
        .map(|(asn, (_, class))| (asn, class))
}

/// The prefix with most failures.
pub fn best_prefix(
    view: &View<'_>,
    case: &Case,
    failures: &[Failure<'_>],
) -> Option<(Prefix, Class)> {
    let failing: BTreeSet<PeerKey> = failures.iter().map(|f| f.key).collect();
    let mut classes: BTreeMap<Prefix, Class> = BTreeMap::new();
    for key in connected(view, case) {
        let class = classes
            .entry(view.prefix(&key, &case.egress))
            .or_insert_with(|| Class {
                members: 0,
                failing: BTreeSet::new(),
            });
        class.members += 1;
        if failing.contains(&key) {
            class.failing.insert(key);
        }
    }
    classes
        .into_iter()
        .filter(|(_, class)| class.fails())
        .max_by_key(|(_, class)| class.failing.len())
}

/// Something narrower than the egress explains nearly all failures while others are well.
pub fn explained(view: &View<'_>, case: &Case, failures: &[Failure<'_>]) -> bool {
    let population = view.population(&case.egress, Families::BOTH).peers;
    let covers = |class: &Class| {
        class.failing.len() * 10 >= failures.len() * 9 && population >= class.members + 2
    };
    best_as(view, case, failures).is_some_and(|(_, class)| covers(&class))
        || best_prefix(view, case, failures).is_some_and(|(_, class)| covers(&class))
}

/// Peers with connections through the case's egress.
fn connected<'a>(view: &View<'a>, case: &Case) -> impl Iterator<Item = PeerKey> + use<'a> {
    let egress = case.egress.clone();
    let default = &view.peers.default;
    view.peers
        .map
        .iter()
        .filter(move |(_, peer)| {
            let on = match peer.failure() {
                Some(failing) => &failing.egress,
                None => peer.egress(default),
            };
            !peer.connections.is_empty() && *on == egress
        })
        .map(|(key, _)| *key)
}
