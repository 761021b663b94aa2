//! Bursts of probes at suspects, asked for and not sent yet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use events::{ProbeRequest, ProbeSource, ProbeTarget, Timestamp};

use crate::path::PathKey;
use crate::settings::EgressSettings;

/// At most so many probes wait: two seconds at the highest rate.
const CAPACITY: usize = 4096;
const MOST_PER_PATH: u8 = 10;
const LEAST_SPACING: Duration = Duration::from_millis(5);

/// Probes of suspects, the next one first.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    due: BinaryHeap<Reverse<(Timestamp, PathKey)>>,
}

impl Suspects {
    /// Adds a burst: each path's probes `spacing` apart (at least 5 ms, at most ten), the paths
    /// spread over that time. Returns how many probes were dropped: no room, an egress that does
    /// not exist, or a target that is no host. A flow source of another family than the target's
    /// makes no path.
    pub(crate) fn add(
        &mut self,
        request: &ProbeRequest,
        egresses: &[EgressSettings],
        now: Timestamp,
    ) -> u64 {
        let count = request.count.clamp(1, MOST_PER_PATH);
        let (paths, refused) = paths(request, egresses);
        let spacing = request.spacing.max(LEAST_SPACING);
        let share = spacing / u32::try_from(paths.len().max(1)).unwrap_or(u32::MAX);
        let mut dropped = refused * u64::from(count);
        let mut first = now;
        for path in paths {
            for nth in 0..count {
                if self.due.len() < CAPACITY {
                    let at = first + spacing * u32::from(nth);
                    self.due.push(Reverse((at, path)));
                } else {
                    dropped += 1;
                }
            }
            first = first + share;
        }
        dropped
    }

    /// When the next probe is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// A path whose probe is due.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<PathKey> {
        self.due.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.due.pop().map(|Reverse((_, path))| path)
    }
}

/// The paths of a request, and how many are impossible.
fn paths(request: &ProbeRequest, egresses: &[EgressSettings]) -> (Vec<PathKey>, u64) {
    let mut paths = Vec::new();
    let mut refused = 0;
    for target in &request.targets {
        for name in &request.egresses {
            let egress = egresses.iter().position(|e| e.name == *name);
            for source in &request.sources {
                let flows = match source {
                    ProbeSource::Link => vec![None],
                    ProbeSource::Flow => request
                        .flow_sources
                        .iter()
                        .filter(|s| s.is_ipv4() == target.is_ipv4())
                        .map(|s| Some(*s))
                        .collect(),
                };
                for flow in flows {
                    match egress {
                        Some(egress) if is_host(*target) && paths.len() < CAPACITY => {
                            paths.push(PathKey {
                                egress,
                                target: ProbeTarget::Suspect(*target),
                                source: *source,
                                flow,
                            });
                        }
                        _ => refused += 1,
                    }
                }
            }
        }
    }
    (paths, refused)
}

fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || address == IpAddr::from([255; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egresses() -> Vec<EgressSettings> {
        ["a", "b"]
            .map(|n| EgressSettings {
                name: n.into(),
                interface: n.into(),
                gateways: Vec::new(),
            })
            .to_vec()
    }

    fn request(targets: &[&str]) -> ProbeRequest {
        ProbeRequest {
            targets: targets.iter().map(|t| t.parse().unwrap()).collect(),
            flow_sources: vec!["198.51.100.1".parse().unwrap()],
            egresses: vec!["a".into(), "b".into()],
            sources: vec![ProbeSource::Link, ProbeSource::Flow],
            count: 3,
            spacing: Duration::from_millis(15),
        }
    }

    #[test]
    fn a_burst_is_every_path_so_many_times_and_spread() {
        let mut suspects = Suspects::default();
        let dropped = suspects.add(&request(&["203.0.113.1"]), &egresses(), Timestamp::ZERO);
        assert_eq!(dropped, 0);
        let mut sent = Vec::new();
        for us in 0..100_000 {
            let now = Timestamp::from_nanos(us * 1000);
            while let Some(path) = suspects.pop(now) {
                sent.push((us, path));
            }
        }
        assert_eq!(sent.len(), 4 * 3);
        let times: Vec<u64> = sent.iter().map(|(us, _)| *us).collect();
        assert_eq!(times[..5], [0, 3750, 7500, 11250, 15000]);
        assert_eq!(sent[0].1, sent[4].1);
        assert_eq!(suspects.next(), None);
    }

    #[test]
    fn impossible_probes_are_counted_and_the_queue_is_bounded() {
        let mut suspects = Suspects::default();
        let now = Timestamp::ZERO;
        assert_eq!(suspects.add(&request(&["224.0.0.1"]), &egresses(), now), 12);
        assert_eq!(
            suspects.add(&request(&["203.0.113.1"]), &egresses()[..1], now),
            6
        );
        // IPv6 has no flow source here: two paths by the links' own addresses are left.
        assert_eq!(
            suspects.add(&request(&["2001:db8::1"]), &egresses(), now),
            0
        );
        assert_eq!(suspects.due.len(), 6 + 6);
        let many = vec!["203.0.113.1"; 1000];
        let dropped = suspects.add(&request(&many), &egresses(), now);
        assert_eq!(dropped, 12_000 - (4096 - 12));
        assert_eq!(suspects.due.len(), 4096);
    }
}
