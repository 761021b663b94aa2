//! What the correlator is configured with.

use std::net::IpAddr;
use std::time::Duration;

use events::{Asn, EgressName};
use serde::{Deserialize, Serialize};

/// The correlator's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Makes incident names unique across restarts: they are `{run_id}-{n}`.
    pub run_id: String,
    /// The egresses in order of preference; the first is the primary.
    pub egresses: Vec<EgressParams>,
    /// Addresses in the wide network that are probed all the time, and the AS of each.
    pub anchors: Vec<(IpAddr, Asn)>,
    /// The addresses that the validator's connections use.
    pub flow_sources: Vec<IpAddr>,
    /// This host's own AS: never a culprit.
    pub local_as: Option<Asn>,
    /// Probes may be asked for.
    pub probes: bool,
    /// When evidence is enough.
    pub thresholds: Thresholds,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressParams {
    /// Its configured name.
    pub name: EgressName,
    /// Its gateway routers, at most one per address family.
    pub gateways: Vec<IpAddr>,
}

/// When evidence is enough. Weights and sums are log-likelihood ratios in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// TCP evidence of a class that raises suspicion.
    pub suspect: f64,
    /// TCP evidence that, with agreeing probes, makes a verdict.
    pub confirm: f64,
    /// Failing peers that raise suspicion; fewer suffice where an egress has few peers.
    pub min_peers: usize,
    /// Prefixes that they must lie in; fewer suffice where there are few.
    pub min_prefixes: usize,
    /// Assumed correlation between peers of one class: caps what many of them can add.
    pub correlation: f64,
    /// A failure of a connection is fresh for so long.
    pub window: Duration,
    /// Consecutive misses of a gateway that make it suspect.
    pub gateway_misses: usize,
    /// Consecutive misses of each anchor that suffice without TCP evidence.
    pub anchor_misses: usize,
    /// No verdict on a path beyond the gateway earlier after the onset.
    pub min_dark: Duration,
    /// A sudden delay looks the same as a cut until the late answers come: so much longer than
    /// usual they are waited for.
    pub sudden_delay: Duration,
    /// A verdict on TCP evidence alone waits for so long after the suspicion.
    pub tcp_only_wait: Duration,
    /// A verdict of small scope waits for so long after the suspicion, so that a wide outage is not
    /// first called a single peer.
    pub narrow_wait: Duration,
    /// Peers of one prefix or AS must have failed for so long to be suspected.
    pub narrow_persist: Duration,
    /// A single peer must have failed for so long to be suspected.
    pub single_persist: Duration,
    /// A suspicion without a verdict ends after so long.
    pub give_up: Duration,
    /// A path counts as healed after it has answered for so long.
    pub heal: Duration,
    /// Where it breaks again and again that time is doubled, up to this.
    #[serde(default = "heal_max")]
    pub heal_max: Duration,
    /// An incident of which nothing more is heard ends after so long.
    pub silence: Duration,
    /// A timer that fired so late vetoes what was seen meanwhile.
    pub lag_veto: Duration,
    /// Open incidents at once, at most.
    pub max_open: usize,
}

const fn heal_max() -> Duration {
    Duration::from_secs(64)
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            suspect: 8.0,
            confirm: 19.0,
            min_peers: 5,
            min_prefixes: 3,
            correlation: 0.1,
            window: Duration::from_secs(2),
            gateway_misses: 3,
            anchor_misses: 3,
            min_dark: Duration::from_millis(100),
            sudden_delay: Duration::from_millis(110),
            tcp_only_wait: Duration::from_millis(300),
            narrow_wait: Duration::from_millis(400),
            narrow_persist: Duration::from_millis(250),
            single_persist: Duration::from_millis(1000),
            give_up: Duration::from_millis(1500),
            heal: Duration::from_secs(2),
            heal_max: heal_max(),
            silence: Duration::from_secs(60),
            lag_veto: Duration::from_millis(50),
            max_open: 4,
        }
    }
}

impl Thresholds {
    /// How long a path must answer to count as healed, where that takes so many times longer than usual.
    pub(crate) fn healed_after(&self, patience: u32) -> Duration {
        (self.heal * patience).min(self.heal_max).max(self.heal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_heal_grows_up_to_what_is_set() {
        let of = |heal_max: u64| {
            let thresholds = Thresholds {
                heal_max: Duration::from_secs(heal_max),
                ..Thresholds::default()
            };
            [1, 2, 32].map(|patience| thresholds.healed_after(patience).as_secs())
        };
        assert_eq!(of(64), [2, 4, 64]);
        assert_eq!(of(3), [2, 3, 3]);
        assert_eq!(of(0), [2, 2, 2]);
    }
}
