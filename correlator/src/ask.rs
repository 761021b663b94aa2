//! Whom to probe.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use events::{Asn, PeerKey, Prefix};

use crate::case::Case;
use crate::params::Params;
use crate::peers::Peers;
use crate::view::View;

/// Suspects asked at once.
const MAX_SUSPECTS: usize = 16;

/// One peer of every prefix on a suspected egress that shows no failure yet: of those, too, it will
/// be asked whether a backup carries them.
pub fn neighbors(view: &View<'_>, case: &Case) -> Vec<IpAddr> {
    if case.probe_at.is_none_or(|due| view.now < due) {
        return Vec::new();
    }
    if !case.is_wide() {
        return kin(view, case);
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

/// Peers that share a prefix or an AS with one that fails and show nothing themselves: whether they
/// answer tells how far it reaches.
fn kin(view: &View<'_>, case: &Case) -> Vec<IpAddr> {
    let prefixes: BTreeSet<Prefix> = case.affected.values().copied().collect();
    let beyond = |key: &PeerKey| -> BTreeSet<Asn> {
        let path = view.routes.path(key, &case.egress);
        path.map(|path| path.ases.iter().skip(1).copied().collect())
            .unwrap_or_default()
    };
    let ases: BTreeSet<Asn> = case.affected.keys().flat_map(beyond).collect();
    let mut inside = Vec::new();
    let mut beside: BTreeMap<Prefix, IpAddr> = BTreeMap::new();
    for (key, peer) in &view.peers.map {
        let here = *peer.egress(&view.peers.default) == case.egress;
        if peer.connections.is_empty() || !here || case.affected.contains_key(key) {
            continue;
        }
        let prefix = view.prefix(key, &case.egress);
        if prefixes.contains(&prefix) {
            inside.push(key.0);
        } else if !beyond(key).is_disjoint(&ases) {
            beside.entry(prefix).or_insert(key.0);
        }
    }
    inside.truncate(MAX_SUSPECTS / 4);
    inside.extend(beside.into_values());
    inside.truncate(MAX_SUSPECTS / 2);
    inside
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
