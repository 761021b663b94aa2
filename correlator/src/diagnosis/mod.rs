//! The diagnoses: each may give an open case a verdict. One file each; its header says when its
//! case opens and when it closes.
//!
//! They are asked in the order of how much they explain. A diagnosis that would contradict what it
//! sees, or for which evidence is still on its way, stays silent: the case is asked again as
//! evidence comes.

mod gateway;
mod host_stall;
pub mod isolation;
mod local_link;
mod narrow;
mod prefix;
mod remote_as;
mod return_path;
mod single_peer;
mod upstream;

use events::{PeerKey, Verdict};

use crate::case::Case;
use crate::view::View;

/// A verdict and for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub verdict: Verdict,
    /// Peers that it touches, also those whose failure is not seen yet.
    pub affected: Vec<PeerKey>,
}

/// The verdict that the facts permit for a case, if any.
pub fn diagnose(view: &View<'_>, case: &Case) -> Option<Finding> {
    isolation::diagnose(view, case)
        .or_else(|| local_link::diagnose(view, case))
        .or_else(|| host_stall::diagnose(view, case))
        .or_else(|| gateway::diagnose(view, case))
        .or_else(|| upstream::diagnose(view, case))
        .or_else(|| return_path::diagnose(view, case))
        .or_else(|| {
            let scene = narrow::scene(view, case)?;
            remote_as::diagnose(view, case, &scene)
                .or_else(|| prefix::diagnose(view, case, &scene))
                .or_else(|| single_peer::diagnose(view, case, &scene))
        })
}

/// All peers with connections through the case's egress, owned by no other case.
fn everyone(view: &View<'_>, case: &Case) -> Vec<PeerKey> {
    view.peers
        .map
        .iter()
        .filter(|(key, peer)| {
            let on = match peer.failure() {
                Some(failing) => &failing.egress,
                None => peer.egress(&view.peers.default),
            };
            let foreign = view.owners.get(key).is_some_and(|n| *n != case.number);
            !peer.connections.is_empty() && *on == case.egress && !foreign
        })
        .map(|(key, _)| *key)
        .collect()
}
