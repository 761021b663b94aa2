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

pub mod btf;
mod collector;
mod convert;
mod counters;
mod diag;
mod kernel;
mod offsets;
mod owner;
mod preflight;
mod probes;
mod reader;
mod sweep;
mod table;

use std::time::Duration;

use ipnet::IpNet;

pub use collector::{Collector, Handle};
pub use counters::Counters;
pub use kernel::{ProgramStats, StartError};
pub use preflight::{Check, preflight};

/// What is watched, and how closely.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Peers in these networks are not reported.
    pub ignore: Vec<IpNet>,
    /// Only connections with one of these ports at either end; empty: all. Eight at most.
    pub ports: Vec<u16>,
    /// Connections between addresses of this host are not watched.
    pub ignore_loopback: bool,
    /// How often connections with late data are looked at; a quarter as often while there are none.
    pub sweep: Duration,
    /// How often the kernel's own list of connections is compared with ours.
    pub reconcile: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignore: Vec::new(),
            ports: Vec::new(),
            ignore_loopback: true,
            sweep: Duration::from_millis(5),
            reconcile: Duration::from_secs(10),
        }
    }
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Its stable name.
    pub name: &'static str,
    /// What it is attached to by the kernel's own word; `None`: it is off.
    pub hook: Option<String>,
    /// Why it is off, and what goes unseen; empty where it is on.
    pub reason: String,
}
