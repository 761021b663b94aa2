//! Sums of TCP evidence over a class of peers.

use std::collections::BTreeSet;
use std::time::Duration;

use events::{Asn, PeerKey, Prefix, Timestamp};

use crate::peers::{Failing, Peer};
use crate::routes::Path;

/// A peer that acknowledges after the break: one in twenty may, its answer was on the way.
const ALIVE: f64 = 3.0;

/// A peer that fails, with what is known of the way to it.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub key: PeerKey,
    pub peer: &'a Peer,
    pub failing: &'a Failing,
    /// What it weighs by the peer's own base rate, in nats.
    pub weight: f64,
    pub prefix: Prefix,
    pub origin: Option<Asn>,
    pub path: Option<&'a Path>,
}

impl Failure<'_> {
    /// By then the break had surely happened.
    pub fn surely_dark(&self) -> Timestamp {
        self.failing.since + self.failing.limit
    }

    /// By then its acknowledgement would have come had it been delayed by `allowance`. The limit
    /// holds the round-trip time and a margin of 40 ms.
    pub fn late_by(&self, allowance: Duration) -> Timestamp {
        self.surely_dark() + allowance.saturating_sub(Duration::from_millis(40))
    }
}

/// How many there are of what on an egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Population {
    pub connections: usize,
    pub peers: usize,
    pub prefixes: BTreeSet<Prefix>,
    pub origins: BTreeSet<Asn>,
}

/// Evidence summed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    pub connections: usize,
    pub peers: usize,
    pub prefixes: BTreeSet<Prefix>,
    pub origins: BTreeSet<Asn>,
    /// Nats.
    pub score: f64,
}

impl Tally {
    /// `correlation` between any two of them caps what many can add: the effective number of
    /// equally correlated observations is `n / (1 + (n - 1) * correlation)`.
    pub fn of(failures: &[Failure<'_>], correlation: f64) -> Self {
        let n = failures.len();
        if n == 0 {
            return Self::default();
        }
        #[allow(clippy::cast_precision_loss)] // Far below 2^52.
        let count = n as f64;
        let sum: f64 = failures.iter().map(|f| f.weight).sum();
        Self {
            connections: failures
                .iter()
                .map(|f| f.peer.failing_connections().max(1))
                .sum(),
            peers: n,
            prefixes: failures.iter().map(|f| f.prefix).collect(),
            origins: failures.iter().filter_map(|f| f.origin).collect(),
            score: sum / (1.0 + (count - 1.0) * correlation),
        }
    }
}

/// What so many peers weigh that acknowledge although everything is said to be broken, in nats, with
/// correlation capped in the same way.
pub fn against(alive: usize, correlation: f64) -> f64 {
    if alive == 0 {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    let count = alive as f64;
    ALIVE * count / (1.0 + (count - 1.0) * correlation)
}

/// Peers that must fail before an egress with `peers` of them is suspected.
pub fn enough_peers(peers: usize, limit: usize) -> usize {
    (peers * 3).div_ceil(5).clamp(2, limit.max(2))
}

/// Prefixes that they must lie in.
pub fn enough_prefixes(prefixes: usize, limit: usize) -> usize {
    prefixes.div_ceil(2).clamp(1, limit.max(1))
}

/// The sum that raises suspicion: two peers can never reach that of five.
pub fn enough_score(needed: usize, limit: f64) -> f64 {
    if needed <= 2 { limit.min(7.0) } else { limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sets_need_ratios_and_large_sets_counts() {
        let needed: Vec<usize> = [1, 2, 3, 4, 5, 8, 40, 1000]
            .into_iter()
            .map(|n| enough_peers(n, 5))
            .collect();
        assert_eq!(needed, [2, 2, 2, 3, 3, 5, 5, 5]);
        let needed: Vec<usize> = [1, 2, 4, 8]
            .into_iter()
            .map(|n| enough_prefixes(n, 3))
            .collect();
        assert_eq!(needed, [1, 1, 2, 3]);
    }
}
