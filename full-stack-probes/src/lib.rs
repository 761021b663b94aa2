//! Kernel collection: offsets from BTF, the attach ladder, rings drained in batches.
//!
//! [`Collector::start`] loads and attaches the programs, [`Collector::spawn`] runs one thread that
//! turns what they see into batches of [`events::TcpEvent`]. [`preflight`] tells what will work
//! without loading anything.
//!
//! ```text
//! programs ──urgent ring──▶┐
//!          ──bulk ring────▶├─ collector thread ──try_send──▶ sink
//!          ──slot table───▶┘        ▲
//!              (mapped)             └── sock_diag: at start, then every 10 s
//! ```

mod attach;
mod backed_off;
mod block;
pub mod btf;
mod cgroup;
mod collector;
mod convert;
mod counters;
mod diag;
mod half_closed;
mod heartbeat;
mod kernel;
mod link;
mod listening;
mod lockdown;
mod mapped;
mod message;
mod offsets;
mod owner;
mod percentiles;
mod preflight;
mod probes;
mod processes;
mod reader;
mod records;
mod sched;
mod sweep;
mod swept;
mod table;
mod tcp_probes;
mod udp;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use backed_off::BackedOff;
pub use block::DiskCounters;
pub use collector::{Collector, Handle};
pub use counters::Counters;
pub use events::BlockOperation;
pub use kernel::{Memory, ProgramStats, StartError};
pub use percentiles::{Percentiles, Registry, Series, Usage};
pub use preflight::{Check, preflight, preflight_for};
pub use probes::RungKind;
pub use records::{KernelRecord, Sinks};
pub use sched::{LongWait, Preemptor, WatchedThread};
pub use udp::UdpThread;
pub use watch::{Selector, WatchedProcess};

/// What is watched, and how closely.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Peers in these networks are not reported.
    pub ignore: Vec<IpNet>,
    /// Only connections with one of these ports at either end; empty: all. Eight at most.
    pub ports: Vec<u16>,
    /// Only connections with peers in these networks are watched; empty: all.
    pub peers: Vec<IpNet>,
    /// Connections between addresses of this host are not watched.
    pub ignore_loopback: bool,
    /// How often connections with late data are looked at.
    pub sweep: Duration,
    /// Nobody decides by data that is younger than `srtt + 4 * mdev` and this.
    pub overdue_floor: Duration,
    /// How often the kernel's own list of connections is compared with ours.
    pub reconcile: Duration,
    /// What on this host is the validator.
    pub watch: Watch,
    /// Whether disks are watched.
    pub block: bool,
    /// Only these disks, such as `nvme0n1`; empty: all.
    pub devices: Vec<String>,
    /// A block request that takes longer is told of at once.
    pub block_slow: Duration,
    /// A wait of a watched thread for a CPU from which on it is told by itself.
    pub long_wait: Duration,
    /// Probes that must use one kind of hook, by name, whatever else the kernel offers.
    pub force: BTreeMap<&'static str, RungKind>,
}

/// What on this host is the validator: processes whose threads, connections and messages are
/// watched. Empty: nothing is declared, and the connections of all processes are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Names (`comm`); as in the kernel, only the first 15 bytes count.
    pub processes: Vec<String>,
    /// Absolute paths of executables.
    pub executables: Vec<PathBuf>,
    /// systemd units, such as `gaiad.service` (which is meant where there is no suffix).
    pub units: Vec<String>,
    /// Cgroups, as absolute paths below the cgroup mount, such as `/system.slice/gaiad.service`.
    pub cgroups: Vec<PathBuf>,
    /// TCP ports, of either end, whose messages are recorded one by one. Eight at most.
    pub consensus_ports: Vec<u16>,
}

impl Watch {
    /// Whether any process is declared.
    #[must_use]
    pub fn has_processes(&self) -> bool {
        !(self.processes.is_empty()
            && self.executables.is_empty()
            && self.units.is_empty()
            && self.cgroups.is_empty())
    }
}

/// The probes and the kinds of hooks that each may use, best first.
#[must_use]
pub fn ladders() -> Vec<(&'static str, Vec<RungKind>)> {
    probes::PROBES
        .iter()
        .map(|probe| {
            let mut kinds: Vec<_> = probe.rungs.iter().map(|rung| rung.kind).collect();
            // Several ways of one kind: names differ between kernels.
            kinds.dedup();
            (probe.name, kinds)
        })
        .collect()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignore: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            ignore_loopback: true,
            sweep: Duration::from_millis(5),
            overdue_floor: Duration::from_millis(40),
            reconcile: Duration::from_secs(10),
            watch: Watch::default(),
            block: true,
            devices: Vec::new(),
            block_slow: Duration::from_millis(100),
            long_wait: Duration::from_millis(50),
            force: BTreeMap::new(),
        }
    }
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Its stable name.
    pub name: &'static str,
    /// The settings have something for it to do.
    pub asked: bool,
    /// What it is attached to by the kernel's own word; `None`: it is off.
    pub hook: Option<String>,
    /// Which kind of hook that is.
    pub rung: Option<RungKind>,
    /// Why it is off or on a lesser hook, and what goes unseen; empty where it is on the best.
    pub reason: String,
}
