use crate::rib::{History, Rpki};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::secret::{SecretError, routing_key_from};
use crate::{Bmp, Maintenance, Ris, Secret};

/// The whole configuration, valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// This host and the daemon's places on it.
    pub host: Host,
    /// Which connections are watched.
    pub tcp: Tcp,
    /// What on this host is the validator.
    pub watch: Watch,
    /// Which disks are watched.
    pub block: Block,
    /// The uplinks in order of preference, the primary first.
    pub egress: Vec<Egress>,
    /// Active probes.
    pub probe: Probe,
    /// The BGP speaker. `None`: there is none, nothing is listened on.
    pub bgp: Option<Bgp>,
    /// What may be rerouted.
    pub failover: Failover,
    /// The pager. `None`: nobody is paged.
    pub pager: Option<Pager>,
    /// The metrics listener. `None`: there is none.
    pub metrics: Option<Metrics>,
    /// The flight recorder.
    pub recorder: Recorder,
}

/// This host and the daemon's places on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name that pages carry. `None`: the kernel's host name.
    pub name: Option<String>,
    /// Directory of what outlives a restart: `journal.db`, `outbox.db`, `recordings`.
    pub state_dir: PathBuf,
    /// Directory of what does not: the control socket, leases, the kill switch.
    pub runtime_dir: PathBuf,
    /// Log filter: a level, or directives `target=level` separated by commas.
    pub log: String,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            name: None,
            state_dir: PathBuf::from("/var/lib/netwatch"),
            runtime_dir: PathBuf::from("/run/netwatch"),
            log: "info".to_owned(),
        }
    }
}

/// Which connections are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Only connections with one of these ports at either end; empty: all.
    pub ports: BTreeSet<u16>,
    /// Only peers inside these prefixes are watched; empty: all.
    pub peers: Vec<IpNet>,
    /// Peers inside these prefixes are not watched.
    pub ignore: Vec<IpNet>,
    /// Load the kernel programs; without them active probes stand alone.
    pub ebpf: bool,
    /// The least age, beyond the peer's learned round-trip time, at which an ACK counts as overdue.
    pub ack_overdue_floor: Duration,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            ports: BTreeSet::new(),
            peers: Vec::new(),
            ignore: Vec::new(),
            ebpf: true,
            ack_overdue_floor: Duration::from_millis(40),
        }
    }
}

/// What on this host is the validator. Processes by any of four names; none: connections of all
/// processes are watched, threads of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Names (`comm`), 15 bytes at most.
    pub processes: Vec<String>,
    /// Absolute paths of executables.
    pub executables: Vec<PathBuf>,
    /// systemd units that have processes: services and scopes.
    pub units: Vec<String>,
    /// Cgroups, as absolute paths below the cgroup mount.
    pub cgroups: Vec<PathBuf>,
    /// TCP ports, of either end, whose messages are recorded one by one.
    pub consensus_ports: BTreeSet<u16>,
    /// A watched thread's wait for a CPU that is logged within a second when it was longer.
    pub wait: Duration,
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

impl Default for Watch {
    fn default() -> Self {
        Self {
            processes: Vec::new(),
            executables: Vec::new(),
            units: Vec::new(),
            cgroups: Vec::new(),
            consensus_ports: BTreeSet::new(),
            wait: Duration::from_millis(50),
        }
    }
}

/// Which disks are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whether any is.
    pub enabled: bool,
    /// Names of whole disks, such as `nvme0n1`; empty: all.
    pub devices: Vec<String>,
    /// A request that is logged within a second when it took longer.
    pub slow: Duration,
}

impl Default for Block {
    fn default() -> Self {
        Self {
            enabled: true,
            devices: Vec::new(),
            slow: Duration::from_millis(100),
        }
    }
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Its name in incidents and pages; unique.
    pub name: String,
    /// Its network interface; unique. It need not exist when the daemon starts.
    pub interface: String,
    /// Its gateways, at most one per address family.
    pub gateways: Vec<IpAddr>,
}

impl Egress {
    /// The gateway of the address family of `address`.
    #[must_use]
    pub fn gateway_for(&self, address: IpAddr) -> Option<IpAddr> {
        self.gateways
            .iter()
            .copied()
            .find(|g| g.is_ipv4() == address.is_ipv4())
    }
}

/// Active probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Send probes. With no egress nothing is ever sent.
    pub enabled: bool,
    /// The addresses that the validator's connections use.
    pub flow_sources: Vec<IpAddr>,
    /// Time between two probes of a gateway.
    pub gateway_interval: Duration,
    /// Time between two probes of an anchor, per egress and source.
    pub anchor_interval: Duration,
    /// Addresses in the wide network that are known to answer.
    pub anchors: Vec<Anchor>,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            enabled: true,
            flow_sources: Vec::new(),
            gateway_interval: Duration::from_millis(20),
            anchor_interval: Duration::from_millis(50),
            anchors: Vec::new(),
        }
    }
}

/// An address that answers probes, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Its address.
    pub address: IpAddr,
    /// The AS that originates its prefix.
    pub asn: u32,
}

/// The BGP speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// Our AS.
    pub local_as: u32,
    /// Our BGP identifier, as an address.
    pub router_id: Ipv4Addr,
    /// Where neighbours are accepted.
    pub listen: Vec<SocketAddr>,
    /// The hold time that we propose: zero (none) or at least 3 s.
    pub hold_time: Duration,
    /// Between two attempts to connect.
    pub connect_retry: Duration,
    /// SendHoldTime (RFC 9687). `None`: the greater of 8 min and twice the negotiated hold time.
    pub send_hold_time: Option<Duration>,
    /// The neighbours.
    pub neighbors: Vec<Neighbor>,
    /// Monitored routers.
    pub bmp: Option<Bmp>,
    /// RIS Live.
    pub ris: Option<Ris>,
    /// Neighbours that are known by their prefix only.
    pub dynamic: Vec<DynamicNeighbors>,
    /// Bytes of the RIB from which on routes that cover no watched address are left out.
    pub memory_limit: Option<usize>,
    /// Bounds of the change history.
    pub history: History,
    /// Where origins are validated from, if they are.
    pub rpki: Option<Rpki>,
}

/// A BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// Its address; unique.
    pub address: IpAddr,
    /// Its AS: iBGP where it equals ours.
    pub asn: u32,
    /// Wait for it to connect; else connect as well.
    pub passive: bool,
    /// Where it listens.
    pub port: u16,
    /// The interface that it is behind, for a link-local address.
    pub interface: Option<String>,
    /// What is expected of it.
    pub peer: BgpPeer,
}

/// Neighbours that may connect from a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicNeighbors {
    /// Where from.
    pub prefix: IpNet,
    /// The ASes of which each must be one.
    pub asn: Vec<u32>,
    /// How many at once, 1 to 1000.
    pub limit: u16,
    /// What is expected of each.
    pub peer: BgpPeer,
}

/// What is expected of a BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// The egress that its routes stand for.
    pub egress: String,
    /// The most prefixes per address family; beyond, the session is stopped.
    pub max_prefixes: u32,
    /// Share of them, in percent, from which on there is a warning.
    pub max_prefixes_warn: u8,
    /// How long it is refused after it announced more. `None`: until the daemon's restart.
    pub max_prefixes_restart: Option<Duration>,
    /// Families for which several paths are taken (RFC 7911).
    pub add_path: AddPath,
    /// What we are to it (RFC 9234). `None`: no role is told, nothing is checked.
    pub role: Option<BgpRole>,
    /// It must tell its role.
    pub role_strict: bool,
    /// The file with its TCP-MD5 key (RFC 2385). `None`: connections are not signed.
    pub password_file: Option<PathBuf>,
    /// It is at most so many hops away (RFC 5082), 1 to 254.
    pub ttl_security: Option<u8>,
}

/// Address families with ADD-PATH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AddPath {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// What we are to a neighbour (RFC 9234 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BgpRole {
    Provider,
    Customer,
    Peer,
    RouteServer,
    RouteServerClient,
}

/// Whether routes are really installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Plans are made, checked and recorded; no route is touched.
    #[default]
    Shadow,
    /// Plans are carried out.
    Act,
}

/// What may be rerouted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Whether routes are really installed.
    pub mode: Mode,
    /// A route may be installed only where it is inside one of these; empty: nowhere. `0.0.0.0/0`
    /// and `::/0` cover every more-specific of their family; the default route itself is never a
    /// target.
    pub prefixes: Vec<IpNet>,
    /// Prefixes that are never touched, even inside `prefixes`.
    pub protected: Vec<IpNet>,
    /// At most so many routes at any time, 1 to 1024.
    pub max_routes: u16,
    /// Unrenewed routes are removed after this time, 5 s to 10 min.
    pub lease: Duration,
    /// Incidents that may be acted on within an hour, 1 to 10,000; beyond it plans are only told.
    pub actions_per_hour: u16,
    /// Only one incident of a verdict class is acted on within this time, at most 24 h.
    pub class_interval: Duration,
    /// How long routes stay after the primary healed; doubled for each time within an hour.
    pub hold_down: Duration,
    /// The longest that they stay, and that a path which breaks again and again must answer to count
    /// as healed.
    pub hold_down_max: Duration,
    /// Once routes are in, connections with a backed-off retransmission timer are made to
    /// retransmit at once by an ICMP message to ourselves (RFC 6069).
    pub nudge: bool,
    /// `rtm_protocol` of our routes.
    pub protocol: u8,
    /// While this file exists, nothing is installed and what is installed is removed.
    pub kill_switch: PathBuf,
    /// A program that is asked before routes are installed: it permits them by exit code 0.
    pub permit: Option<PathBuf>,
    /// When no route is installed because people work on the network.
    pub maintenance: Vec<Maintenance>,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            mode: Mode::Shadow,
            prefixes: Vec::new(),
            protected: Vec::new(),
            max_routes: 128,
            lease: Duration::from_secs(30),
            actions_per_hour: 3,
            class_interval: Duration::from_secs(300),
            hold_down: Duration::from_secs(2),
            hold_down_max: Duration::from_secs(600),
            nudge: false,
            protocol: 198,
            kill_switch: PathBuf::from("/run/netwatch/failover.off"),
            permit: None,
            maintenance: Vec::new(),
        }
    }
}

/// The pager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pager {
    /// Whose protocol it speaks.
    pub provider: PagerProvider,
    /// Where events are posted.
    pub url: String,
    /// The integration's key.
    pub routing_key: RoutingKey,
    /// PEM file with a trust anchor beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Protocols of pagers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagerProvider {
    /// PagerDuty Events API v2.
    PagerDuty,
}

/// Where the routing key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingKey {
    /// The configuration file itself.
    Inline(Secret),
    /// A file that holds only the key.
    File(PathBuf),
}

impl RoutingKey {
    /// The key, read from its file where it lives in one.
    ///
    /// # Errors
    /// The file cannot be read, or holds no 32-character key.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => routing_key_from(path),
        }
    }
}

/// The metrics listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics` is served.
    pub listen: SocketAddr,
    /// Peers, disks and threads of each summary at most, those with most values first.
    pub series: u16,
}

/// The flight recorder. Without any configuration it does not run: nothing is left on disk then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorder {
    /// Record.
    pub enabled: bool,
    /// A recording begins so long before its incident's onset.
    pub before: Duration,
    /// Memory for what happened lately, in MiB.
    pub memory_mib: u32,
    /// The size of one recording, in MiB.
    pub recording_mib: u32,
    /// The size of all recordings together, in MiB: beyond it the oldest are removed.
    pub total_mib: u32,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            enabled: true,
            before: Duration::from_secs(60),
            memory_mib: 16,
            recording_mib: 32,
            total_mib: 512,
        }
    }
}
