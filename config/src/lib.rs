//! Typed configuration and its validation.
//!
//! [`Config::parse`] reads TOML into values that are valid by their type, or reports every problem
//! that it finds at once, each with its line, column, key and remedy. [`Config::default`] is what
//! runs without a file: the host's own TCP peers are watched, nothing is sent and nothing changed.
//! The keys are documented in `docs/configuration.md`; `netwatch.toml` beside this crate shows all
//! of them.

mod maintenance;
mod neighbor;
mod parse;
mod problem;
mod read;
mod rib;
mod secret;
mod stations;
mod types;
mod warnings;
mod watch;

pub use maintenance::Maintenance;
pub use problem::{ConfigError, Problem};
pub use rib::{History, Rpki};
pub use secret::{Secret, SecretError};
pub use stations::{Bmp, BmpPeer, BmpRouter, BmpView, Ris};
pub use types::{
    AddPath, Anchor, Bgp, BgpPeer, BgpRole, Block, Config, DynamicNeighbors, Egress, Failover,
    Host, Metrics, Mode, Neighbor, Pager, PagerProvider, Probe, Recorder, RoutingKey, Tcp, Watch,
};
