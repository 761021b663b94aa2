//! Whether what broke works again.

use std::time::Duration;

use events::{ProbeSource, ProbeTarget, Timestamp, Verdict};

use crate::case::Case;
use crate::reach::Window;
use crate::view::{Anchor, Families, View, ases};

/// An answer older than this says nothing of now. Suspects are probed every 500 ms to 2 s.
const FRESH: Duration = Duration::from_millis(600);
const FRESH_SUSPECT: Duration = Duration::from_millis(2600);

/// The broken path at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Well,
    /// It does not.
    Bad,
    /// Nothing tells.
    Unknown,
}

/// How the path that a case is about does now.
pub fn health(view: &View<'_>, case: &Case) -> Health {
    match &case.verdict {
        None | Some(Verdict::None) => Health::Unknown,
        Some(Verdict::HostStall | Verdict::Latency { .. }) => stall(view, case),
        Some(Verdict::RemoteAs { .. } | Verdict::Prefix { .. } | Verdict::SinglePeer { .. }) => {
            peers(view, case)
        }
        Some(verdict) => egress(view, case, verdict),
    }
}

fn stall(view: &View<'_>, case: &Case) -> Health {
    if view.host.stall.is_some_and(|s| !s.over) {
        return Health::Bad;
    }
    let failing = case
        .affected
        .keys()
        .filter_map(|key| view.peers.map.get(key))
        .any(|peer| peer.failure().is_some());
    if failing { Health::Bad } else { Health::Well }
}

fn answers_now(window: &Window, now: Timestamp, fresh: Duration) -> bool {
    window.misses(now) <= 1 && window.answered_since(now - fresh)
}

/// Gateway and anchors of two ASes, with the flows' source where that was ever answered.
fn egress(view: &View<'_>, case: &Case, verdict: &Verdict) -> Health {
    if view.host.down_since(&case.egress).is_some() {
        return Health::Bad;
    }
    let gateways = view.gateways(&case.egress, case.onset);
    if !gateways.is_empty() && !gateways.iter().all(|w| answers_now(w, view.now, FRESH)) {
        return Health::Bad;
    }
    let anchors = view.anchors(&case.egress, None, case.onset, Families::BOTH);
    if !anchors.is_empty() {
        let well: Vec<Anchor<'_>> = anchors
            .iter()
            .copied()
            .filter(|a| answers_now(a.window, view.now, FRESH))
            .collect();
        // Of the families that broke, each must answer where it has an anchor.
        let families = |anchors: &[Anchor<'_>], v4: bool| {
            anchors
                .iter()
                .any(|a| a.window.target.address().is_ipv4() == v4)
        };
        let each = [true, false]
            .into_iter()
            .filter(|v4| case.affected.keys().any(|p| p.0.is_ipv4() == *v4))
            .all(|v4| !families(&anchors, v4) || families(&well, v4));
        let enough = ases(&well) >= ases(&anchors).min(2) && each;
        return if enough { Health::Well } else { Health::Bad };
    }
    if !gateways.is_empty()
        && matches!(verdict, Verdict::Gateway { .. } | Verdict::LocalLink { .. })
    {
        return Health::Well;
    }
    let carrier_back = view
        .host
        .links
        .get(&case.egress)
        .is_some_and(|l| l.up_since.is_some());
    if matches!(verdict, Verdict::LocalLink { .. }) && carrier_back {
        return Health::Well;
    }
    peers(view, case)
}

/// The peers whose failure was seen.
fn peers(view: &View<'_>, case: &Case) -> Health {
    let (mut well, mut bad) = (0_usize, 0_usize);
    for key in &case.failed {
        let Some(peer) = view.peers.map.get(key) else {
            continue;
        };
        let probe = [ProbeSource::Flow, ProbeSource::Link]
            .into_iter()
            .filter_map(|source| {
                let target = ProbeTarget::Suspect(key.0);
                view.reach.find(&case.egress, source, target)
            })
            .find(|w| w.last_reply.is_some());
        if let Some(window) = probe {
            if answers_now(window, view.now, FRESH_SUSPECT) {
                well += 1;
                continue;
            }
            if window.misses(view.now) >= 2 {
                bad += 1;
                continue;
            }
        }
        // What flows do elsewhere says nothing of the path that broke.
        if *peer.egress(&view.peers.default) != case.egress || peer.connections.is_empty() {
            continue;
        }
        match peer.failure() {
            Some(_) => bad += 1,
            None if peer.alive_at.is_some_and(|at| at > case.onset) => well += 1,
            None => {}
        }
    }
    if well + bad == 0 {
        Health::Unknown
    } else if well * 5 >= (well + bad) * 4 {
        Health::Well
    } else {
        Health::Bad
    }
}
