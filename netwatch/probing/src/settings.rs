use std::net::IpAddr;
use std::time::Duration;

use events::EgressName;

/// An uplink to probe through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSettings {
    /// Its name in results.
    pub name: EgressName,
    /// Its network interface. It need not exist yet.
    pub interface: String,
    /// Its gateways.
    pub gateways: Vec<IpAddr>,
}

/// What to probe, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Send probes. Host health is watched in any case.
    pub enabled: bool,
    /// The uplinks. With none, no socket is opened and nothing is sent.
    pub egresses: Vec<EgressSettings>,
    /// Addresses in the wide network that are known to answer.
    pub anchors: Vec<IpAddr>,
    /// The addresses that the validator's connections use.
    pub flow_sources: Vec<IpAddr>,
    /// Time between two probes of a gateway.
    pub gateway_interval: Duration,
    /// Time between two probes of an anchor, per egress and source. Stretched where all anchors
    /// together would be more than 2,000 probes a second.
    pub anchor_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            egresses: Vec::new(),
            anchors: Vec::new(),
            flow_sources: Vec::new(),
            gateway_interval: Duration::from_millis(20),
            anchor_interval: Duration::from_millis(50),
        }
    }
}

/// Why probing could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A raw socket was refused.
    #[error(
        "cannot open a raw ICMP socket: {0}; probes need CAP_NET_RAW, or set `probe.enabled = false`"
    )]
    Socket(#[source] std::io::Error),
    /// A netlink socket was refused.
    #[error("cannot watch the network interfaces by netlink: {0}")]
    Netlink(#[source] std::io::Error),
    /// The thread could not be made.
    #[error("cannot start the probing thread: {0}; raise the limit of tasks")]
    Thread(#[source] std::io::Error),
}
