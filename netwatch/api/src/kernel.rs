//! What is seen in the kernel, and how well.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::millis;

/// The kernel collector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelInfo {
    /// Why nothing is collected; absent while it is.
    pub off: Option<String>,
    /// The probes.
    pub probes: Vec<ProbeInfo>,
    /// What the last minute was like: by series, then by label.
    pub percentiles: Vec<SeriesInfo>,
    /// Disks that had requests, by name and operation.
    pub disks: Vec<DiskInfo>,
}

/// One kernel probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// Its name.
    pub name: String,
    /// What it is attached to, by the kernel's own word; `None`: it is off.
    pub hook: Option<String>,
    /// The kind of hook: `tp_btf`, `function`, `kprobe`, `perf_event`.
    pub rung: Option<String>,
    /// Why it is off or on a lesser hook, and what goes unseen; empty where it is on the best.
    pub reason: String,
}

/// One series of durations over the last minute. At the quantiles: within 1/16.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeriesInfo {
    /// What is measured: `peer_rtt`, `peer_handshake`, `peer_send`, `peer_receive`, `block_queue`,
    /// `block_service`, `run_queue`, `off_cpu`, `collector_delay`.
    pub series: String,
    /// Of whom: `peer`, `device` and `operation`, or `thread`.
    pub labels: BTreeMap<String, String>,
    /// Values in the last minute.
    pub count: u64,
    /// Half of them are at most this.
    #[serde(rename = "p50_ms", with = "millis")]
    pub p50: Duration,
    /// 90 % are at most this.
    #[serde(rename = "p90_ms", with = "millis")]
    pub p90: Duration,
    /// 99 % are at most this.
    #[serde(rename = "p99_ms", with = "millis")]
    pub p99: Duration,
    /// 99.9 % are at most this.
    #[serde(rename = "p999_ms", with = "millis")]
    pub p999: Duration,
    /// The greatest, exactly.
    #[serde(rename = "max_ms", with = "millis")]
    pub max: Duration,
    /// Values since the series began; it begins anew after a minute without any.
    pub total: u64,
    /// Their sum.
    #[serde(rename = "sum_ms", with = "millis")]
    pub sum: Duration,
}

/// Requests of one disk, of one operation, since the daemon's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The disk, such as `nvme0n1`.
    pub device: String,
    /// `read`, `write`, `flush`, `discard` or `other`.
    pub operation: String,
    /// Requests completed.
    pub completed: u64,
    /// Those that failed.
    pub errors: u64,
    /// Bytes completed.
    pub bytes: u64,
}

impl KernelInfo {
    /// The series of that name with that label.
    #[must_use]
    pub fn series(&self, series: &str, label: &str, value: &str) -> Option<&SeriesInfo> {
        self.percentiles.iter().find(|info| {
            info.series == series && info.labels.get(label).is_some_and(|found| found == value)
        })
    }
}
