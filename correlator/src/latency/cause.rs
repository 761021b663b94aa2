//! Why peers are slow: a queue at our own uplink, another path, this host.

use std::collections::BTreeSet;
use std::time::Duration;

use events::{
    Asn, EgressName, HostCause, LatencyCause, LatencyScope, PeerKey, ProbeTarget, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::join::{Log, What};
use crate::params::Params;
use crate::reach::Window;
use crate::story;
use crate::view::View;

/// Probes take longer where they take at least so much longer.
const LONGER: Duration = Duration::from_millis(10);
/// Probes of so long say how it is now.
const LATELY: Duration = Duration::from_millis(1500);
/// What a host that does next to nothing sends is no load: bytes per second.
const LOAD: u64 = 50_000;
/// Seconds of observation before anything is usual.
const LEARNED: u32 = 5;

/// What this host sends through one egress, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    usual: u64,
    /// The most of the last seconds; it fades.
    peak: u64,
    now: u64,
    seen: u32,
}

impl Uplink {
    /// Takes in one second's; while anything is slow it teaches nothing.
    pub fn take(&mut self, rate: u64, busy: bool) {
        self.now = rate;
        self.peak = rate.max(self.peak - self.peak / 8);
        if busy {
            return;
        }
        // The mean of the first half minute, then of about as long.
        self.seen = self.seen.saturating_add(1);
        let weight = u64::from(self.seen.min(32));
        self.usual = (self.usual * (weight - 1) + rate) / weight;
    }

    /// Far more than usual.
    fn is_loaded(&self) -> bool {
        self.seen >= LEARNED && self.peak >= LOAD && self.peak >= 2 * self.usual
    }

    pub fn is_quiet_again(&self) -> bool {
        self.now * 2 <= self.peak || self.now <= self.usual + self.usual / 4
    }

    pub fn text(&self, egress: &EgressName) -> Option<String> {
        let rate = |bytes: u64| format!("{:.2} Mbit/s", bytes as f64 * 8.0 / 1e6);
        (self.seen >= LEARNED).then(|| {
            format!(
                "this host sent up to {} through {egress}, usually {}",
                rate(self.peak),
                rate(self.usual)
            )
        })
    }
}

/// Why, as far as the evidence tells.
pub fn of(
    view: &View<'_>,
    log: &Log,
    case: &Case,
    scope: &LatencyScope,
    rise: Duration,
    uplink: Option<&Uplink>,
) -> LatencyCause {
    let wide = matches!(scope, LatencyScope::Egress { .. } | LatencyScope::All);
    // The gateway is next to us: what delays its answers is between us, or us.
    let near = || share_rose(gateways(view, &case.egress), (case.onset, view.now), rise);
    let near = wide && near() == Some(true);
    let loaded = wide && uplink.is_some_and(Uplink::is_loaded);
    if near && loaded {
        LatencyCause::OwnUplink
    } else if moved(log, case, view.params).is_some() {
        LatencyCause::PathChange
    } else if wide && host(view, case.onset).is_some() {
        LatencyCause::Host
    } else if near || loaded {
        LatencyCause::OwnUplink
    } else {
        LatencyCause::Unknown
    }
}

/// What of this host may delay packets: a stall, or a want of CPU.
pub fn host(view: &View<'_>, onset: Timestamp) -> Option<HostCause> {
    view.host
        .cause(onset - story::BEFORE, view.now)
        .filter(|cause| matches!(cause, HostCause::Cpu { .. } | HostCause::Paused { .. }))
}

/// Most of the affected peers' routes through the case's egress took another path: which, in words.
pub fn moved(log: &Log, case: &Case, params: &Params) -> Option<String> {
    let mut peers: BTreeSet<PeerKey> = BTreeSet::new();
    let mut newest: Option<&Vec<Asn>> = None;
    for entry in log.of(case, params).filter(|e| e.egress == case.egress) {
        if let What::Route {
            prefix,
            old: Some(_),
            new: Some(new),
            peers: of,
            ..
        } = &entry.what
        {
            let covered = case.affected.iter().filter(|(_, p)| *p == prefix);
            peers.extend(covered.map(|(key, _)| *key));
            peers.extend(of.iter().filter(|key| case.affected.contains_key(key)));
            newest = Some(new);
        }
    }
    if peers.len() * 2 <= case.affected.len() {
        return None;
    }
    let path: Vec<String> = newest?.iter().map(Asn::to_string).collect();
    Some(format!("the path changed to {}", path.join(" ")))
}

/// Whether anchors through an egress take longer since `onset`, where that is known.
pub fn anchors_rose(
    view: &View<'_>,
    egress: &EgressName,
    onset: Timestamp,
    rise: Duration,
) -> Option<bool> {
    share_rose(anchors(view, egress), (onset, view.now), rise)
}

/// What probes say of the time since `onset`, one line for each egress.
pub fn probes(view: &View<'_>, onset: Timestamp, rise: Duration) -> impl Iterator<Item = String> {
    let lines = view.params.egresses.iter().flat_map(move |egress| {
        let name = &egress.name;
        let line = |what: &str, windows: Vec<&Window>| {
            let by = windows.iter().filter_map(|w| rose_by(w, onset, view.now));
            let rises: Vec<Duration> = by.collect();
            let longer: Vec<&Duration> = rises.iter().filter(|by| **by >= least(rise)).collect();
            let most = longer.iter().max().map_or_else(String::new, |most| {
                format!(", by up to {} ms", most.as_millis())
            });
            (!rises.is_empty()).then(|| {
                let (n, all) = (longer.len(), rises.len());
                format!("{what} through {name}: {n} of {all} take longer{most}")
            })
        };
        [
            line("gateways", gateways(view, name)),
            line("anchors", anchors(view, name)),
        ]
    });
    lines.flatten().collect::<Vec<_>>().into_iter()
}

fn gateways<'a>(view: &View<'a>, egress: &EgressName) -> Vec<&'a Window> {
    let of = |w: &&Window| matches!(w.target, ProbeTarget::Gateway(_));
    view.reach.of(egress).filter(of).collect()
}

fn anchors<'a>(view: &View<'a>, egress: &EgressName) -> Vec<&'a Window> {
    let of = |w: &&Window| matches!(w.target, ProbeTarget::Anchor(_));
    view.reach.of(egress).filter(of).collect()
}

/// Half of the peers' own rise: probes and peers do not wait in the queue at the same moments.
fn least(rise: Duration) -> Duration {
    (rise / 2).max(LONGER)
}

fn share_rose(
    windows: Vec<&Window>,
    (onset, now): (Timestamp, Timestamp),
    rise: Duration,
) -> Option<bool> {
    let by = windows.iter().filter_map(|w| rose_by(w, onset, now));
    let rises: Vec<Duration> = by.collect();
    let longer = rises.iter().filter(|by| **by >= least(rise)).count();
    (!rises.is_empty()).then_some(longer * 2 >= rises.len())
}

/// What a target takes longer now than before `onset`.
fn rose_by(window: &Window, onset: Timestamp, now: Timestamp) -> Option<Duration> {
    let before = window.median_rtt(..onset)?;
    let lately = window.median_rtt(onset.max(now - LATELY)..)?;
    Some(lately.saturating_sub(before))
}
