//! What the prober sends and reports, and when: the rules of `probing`. Times are microseconds.

use events::{ProbeRequest, ProbeSource, ProbeTarget};
use std::net::IpAddr;

use crate::topology::{Topology, flow_source};

/// Probes leave on ticks.
pub const TICK: u64 = 20_000;
/// Between two probes of a gateway.
pub const GATEWAY_INTERVAL: u64 = 20_000;
/// Between two probes of an anchor on one path.
pub const ANCHOR_INTERVAL: u64 = 50_000;
/// A timer that fires later than this is told of.
pub const LAG_TOLD: u64 = 50_000;
/// All anchors together, a second.
const ANCHOR_RATE: u64 = 2_000;
const LONGEST: u64 = 1_000_000;
const SHORTEST: u64 = 30_000;
const SLACK: u64 = 15_000;
const REFUSALS_EACH: u32 = 5;
const REFUSAL_EVERY: u64 = 200_000;
const LEAST_SPACING: u64 = 5_000;
const MOST_WAITING: usize = 4_096;

/// One path that is probed.
#[derive(Clone, Debug)]
pub struct Path {
    /// Through which egress, by number.
    pub egress: usize,
    /// At whom.
    pub target: ProbeTarget,
    /// With which source.
    pub source: ProbeSource,
    smoothed: Option<(u64, u64)>,
    refusals: u32,
    refusal_told: u64,
}

impl Path {
    /// A path of which nothing is known.
    #[must_use]
    pub const fn new(egress: usize, target: ProbeTarget, source: ProbeSource) -> Self {
        Self {
            egress,
            target,
            source,
            smoothed: None,
            refusals: 0,
            refusal_told: 0,
        }
    }

    /// How long after it was sent a probe counts as lost.
    #[must_use]
    pub fn patience(&self) -> u64 {
        self.smoothed.map_or(LONGEST, |(srtt, rttvar)| {
            (srtt + 4 * rttvar + SLACK).clamp(SHORTEST, LONGEST)
        })
    }

    /// A probe was answered.
    pub fn replied(&mut self, rtt: u64) {
        self.smoothed = Some(match self.smoothed {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => (
                srtt * 7 / 8 + rtt / 8,
                rttvar * 3 / 4 + srtt.abs_diff(rtt) / 4,
            ),
        });
        self.refusals = 0;
    }

    /// A probe was lost.
    pub const fn lost(&mut self) {
        self.refusals = 0;
    }

    /// A probe was refused; true where it is reported.
    pub const fn refused(&mut self, now: u64) -> bool {
        self.refusals += 1;
        let told = self.refusals <= REFUSALS_EACH
            || now.saturating_sub(self.refusal_told) >= REFUSAL_EVERY;
        if told {
            self.refusal_told = now;
        }
        told
    }
}

/// A series of probes that is always on.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its path, by number.
    pub path: usize,
    /// When the next one is due.
    pub due: u64,
    /// Between two of them.
    pub interval: u64,
}

/// The paths that are always probed, and their series: spread over their interval.
#[must_use]
pub fn plan(topology: &Topology, start: u64) -> (Vec<Path>, Vec<Series>) {
    let mut paths = Vec::new();
    for (egress, of) in topology.egresses.iter().enumerate() {
        for gateway in &of.gateways {
            let target = ProbeTarget::Gateway(*gateway);
            paths.push(Path::new(egress, target, ProbeSource::Link));
        }
    }
    let gateways = paths.len();
    for anchor in &topology.anchors {
        for egress in 0..topology.egresses.len() {
            for source in [ProbeSource::Link, ProbeSource::Flow] {
                let target = ProbeTarget::Anchor(anchor.address);
                paths.push(Path::new(egress, target, source));
            }
        }
    }
    let anchors = paths.len() - gateways;
    let least = anchors as u64 * 1_000_000 / ANCHOR_RATE;
    let spread = |count: usize, from: usize, interval: u64| {
        (0..count).map(move |n| Series {
            path: from + n,
            due: start + interval * n as u64 / count.max(1) as u64,
            interval,
        })
    };
    let series = spread(gateways, 0, GATEWAY_INTERVAL)
        .chain(spread(anchors, gateways, ANCHOR_INTERVAL.max(least)))
        .collect();
    (paths, series)
}

/// The probes of a burst: when, through which egress, at whom, with which source.
#[must_use]
pub fn burst(
    request: &ProbeRequest,
    topology: &Topology,
    now: u64,
) -> Vec<(u64, usize, IpAddr, ProbeSource)> {
    let mut paths = Vec::new();
    for target in &request.targets {
        for name in &request.egresses {
            let Some(egress) = topology.egresses.iter().position(|e| e.name == *name) else {
                continue;
            };
            for source in &request.sources {
                let carried = *source == ProbeSource::Link
                    || request
                        .flow_sources
                        .contains(&flow_source(target.is_ipv6()));
                if carried {
                    paths.push((egress, *target, *source));
                }
            }
        }
    }
    let spacing = (request.spacing.as_micros() as u64).max(LEAST_SPACING);
    let count = u64::from(request.count.clamp(1, 10));
    let share = spacing / paths.len().max(1) as u64;
    let mut all = Vec::new();
    for (n, (egress, target, source)) in paths.into_iter().enumerate() {
        for nth in 0..count {
            let at = now + share * n as u64 + spacing * nth;
            all.push((at, egress, target, source));
        }
    }
    all.truncate(MOST_WAITING);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_learned_as_the_prober_learns_it() {
        let target = ProbeTarget::Gateway([192, 0, 2, 1].into());
        let mut path = Path::new(0, target, ProbeSource::Link);
        assert_eq!(path.patience(), 1_000_000);
        path.replied(40_000);
        assert_eq!(path.patience(), 40_000 + 80_000 + 15_000);
        for _ in 0..100 {
            path.replied(200);
        }
        assert_eq!(path.patience(), 30_000);
    }

    #[test]
    fn refusals_in_a_row_are_told_five_times_and_then_five_times_a_second() {
        let target = ProbeTarget::Gateway([192, 0, 2, 1].into());
        let mut path = Path::new(0, target, ProbeSource::Link);
        let told = (0..100).filter(|n| path.refused(n * 20_000)).count();
        assert_eq!(told, 5 + 9);
    }
}
