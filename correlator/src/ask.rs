//! Whom to probe.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use events::{PeerKey, Prefix};

use crate::case::Case;
use crate::params::Params;
use crate::peers::Peers;
use crate::view::View;

/// Suspects asked at once.
const MAX_SUSPECTS: usize = 16;

/// One peer of every prefix on a suspected egress that shows no failure yet: of those, too, it will
/// be asked whether a backup carries them.
pub fn neighbors(view: &View<'_>, case: &Case) -> Vec<IpAddr> {
    if case.probe_at.is_none_or(|due| view.now < due) || !case.is_wide() {
        return Vec::new();
    }
    let mut seen: BTreeSet<Prefix> = case
        .affected
        .iter()
        .filter(|(key, _)| case.failed.contains(key))
        .map(|(_, prefix)| *prefix)
        .collect();
    let on_egress = view.peers.map.iter().filter(|(_, peer)| {
        !peer.connections.is_empty() && *peer.egress(&view.peers.default) == case.egress
    });
    on_egress
        .filter(|(key, _)| seen.insert(view.prefix(key, &case.egress)))
        .map(|(key, _)| key.0)
        .take(MAX_SUSPECTS)
        .collect()
}

/// Some of the failing peers, spread over prefixes, and where there is room others.
pub fn suspects(case: &Case, others: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut by_prefix: BTreeMap<Prefix, VecDeque<IpAddr>> = BTreeMap::new();
    for (key, prefix) in &case.affected {
        if case.failed.contains(key) {
            by_prefix.entry(*prefix).or_default().push_back(key.0);
        }
    }
    // One of each prefix first, failing or not; then more of those that fail.
    let mut chosen = Vec::new();
    let mut others = Some(others);
    while chosen.len() < MAX_SUSPECTS && (!by_prefix.is_empty() || others.is_some()) {
        by_prefix.retain(|_, addresses| {
            if chosen.len() < MAX_SUSPECTS {
                chosen.extend(addresses.pop_front());
            }
            !addresses.is_empty()
        });
        chosen.extend(others.take().into_iter().flatten());
    }
    chosen.truncate(MAX_SUSPECTS);
    chosen
}

/// The flows' source address for each family among the targets.
pub fn flow_sources(params: &Params, peers: &Peers, targets: &[IpAddr]) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    for v4 in [true, false] {
        let Some(target) = targets.iter().find(|t| t.is_ipv4() == v4) else {
            continue;
        };
        let configured = params.flow_sources.iter().find(|s| s.is_ipv4() == v4);
        let own = peers.map.get(&PeerKey(*target)).and_then(|p| p.source);
        sources.extend(configured.copied().or(own));
    }
    sources
}
