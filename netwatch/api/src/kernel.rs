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
    /// The watched processes.
    pub watched: Vec<ProcessInfo>,
    /// Their threads that ran since they are watched, by process and thread id.
    pub threads: Vec<ThreadInfo>,
    /// What watched threads sent and received by UDP, by process and thread id.
    pub udp: Vec<UdpInfo>,
}

/// One kernel probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeInfo {
    /// Its name.
    pub name: String,
    /// The configuration has something for it to do.
    pub asked: bool,
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

/// A watched process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What declares it: `name`, `executable`, `unit`, `cgroup`.
    pub why: Vec<String>,
}

/// A watched process' thread, since it is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadInfo {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// Times that the CPU was taken from it.
    pub preempted: u64,
    /// Times that it gave the CPU away.
    pub voluntary: u64,
    /// Time that it waited for a CPU.
    #[serde(rename = "waited_ms", with = "millis")]
    pub waited: Duration,
    /// Time that it slept.
    #[serde(rename = "slept_ms", with = "millis")]
    pub slept: Duration,
    /// Time that it slept for a disk or a lock in the kernel.
    #[serde(rename = "blocked_ms", with = "millis")]
    pub blocked: Duration,
    /// How long it waits for a CPU right now, if it does.
    #[serde(rename = "waiting_ms", with = "millis::option")]
    pub waiting: Option<Duration>,
    /// 99 % of its waits for a CPU were at most this.
    #[serde(rename = "wait_p99_ms", with = "millis")]
    pub wait_p99: Duration,
    /// Its longest wait for a CPU.
    #[serde(rename = "wait_max_ms", with = "millis")]
    pub wait_max: Duration,
    /// Who takes the CPU from it most often, the most frequent first.
    pub preemptors: Vec<PreemptorInfo>,
}

/// What a watched thread sent and received by UDP, since it was first seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpInfo {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them.
    pub sent_bytes: u64,
    /// Sends that failed.
    pub send_errors: u32,
    /// Datagrams received.
    pub received: u64,
    /// Bytes in them.
    pub received_bytes: u64,
    /// Receives that failed.
    pub receive_errors: u32,
}

/// Who takes the CPU from a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreemptorInfo {
    /// Process id; 0: the idle task, where the thread's cgroup has used up its quota.
    pub pid: u32,
    /// Its thread's name.
    pub comm: String,
    /// How often.
    pub count: u64,
    /// The longest wait that followed.
    #[serde(rename = "longest_ms", with = "millis")]
    pub longest: Duration,
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
