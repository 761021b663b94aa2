use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the tracker goes by. `Default` gives the values of the design.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Added to `srtt + 4 * mdev`: 40 ms, Linux's shortest delayed acknowledgement (`TCP_DELACK_MIN`).
    pub overdue_floor: Duration,
    /// The limit where the kernel has no round-trip time yet: 1 s, as RFC 6298 section 2.1.
    pub initial_limit: Duration,
    /// The most that may be learned of a peer's delayed acknowledgements: 200 ms.
    pub allowance_cap: Duration,
    /// A lateness is remembered for one to two of these: 5 min.
    pub allowance_window: Duration,
    /// A deadline counts only while the newest sample is at most so old, or an eighth of the byte's
    /// age where that is more; else the next sample decides. 25 ms: a few of the collector's sweeps.
    pub sample_freshness: Duration,
    /// At most one `Alive { ReceivedOnly }` per connection in this time: 100 ms.
    pub received_only_interval: Duration,
    /// The round-trip time's baseline and spikes.
    pub rtt: RttParams,
    /// An ended connection is remembered for so long, to know late observations: 1 s.
    pub closed_linger: Duration,
    /// A connection with nothing outstanding and no sample for so long may be evicted: 60 s.
    pub idle_after: Duration,
    /// Most connections in memory, ended ones included: 16,384.
    pub max_connections: usize,
    /// Most peers in memory: 4,096.
    pub max_peers: usize,
}

/// How a peer's round-trip time is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RttParams {
    /// Measurements before anything is judged: 8.
    pub warm_up: u32,
    /// Measurements that the baseline is made of are so far apart: 1 s. The newest 32 count, so a
    /// lasting change becomes the baseline within half a minute ...
    pub spacing: Duration,
    /// ... and during a spike so far: 30 s, so that it takes minutes.
    pub spike_spacing: Duration,
    /// A spike is above the median by so many standard deviations, as the median absolute deviation
    /// estimates them: 6 ...
    pub deviations: u32,
    /// ... and by this share of the median, in percent: 25 ...
    pub share_percent: u32,
    /// ... and by this: 30 ms.
    pub margin: Duration,
    /// Consecutive measurements that it takes, for a spike and for its end: 3.
    pub consecutive: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            overdue_floor: Duration::from_millis(40),
            initial_limit: Duration::from_secs(1),
            allowance_cap: Duration::from_millis(200),
            allowance_window: Duration::from_secs(300),
            sample_freshness: Duration::from_millis(25),
            received_only_interval: Duration::from_millis(100),
            rtt: RttParams::default(),
            closed_linger: Duration::from_secs(1),
            idle_after: Duration::from_secs(60),
            max_connections: 16_384,
            max_peers: 4_096,
        }
    }
}

impl Default for RttParams {
    fn default() -> Self {
        Self {
            warm_up: 8,
            spacing: Duration::from_secs(1),
            spike_spacing: Duration::from_secs(30),
            deviations: 6,
            share_percent: 25,
            margin: Duration::from_millis(30),
            consecutive: 3,
        }
    }
}
