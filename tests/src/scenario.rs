//! Scenario files: what is built, what breaks when, and what is expected. `docs/lab.md` explains
//! every key; unknown ones are errors that name file, line and key.

use serde::Deserialize;

use crate::duration::Span;

mod file;

pub use file::{FormatError, load, load_all, parse};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: the file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub description: String,
    /// How long the timeline runs, from the moment when everything is up.
    pub duration: Span,
    /// What is built.
    #[serde(default)]
    pub topology: Topology,
    /// How the daemon is configured.
    #[serde(default)]
    pub daemon: Daemon,
    /// What happens.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// What is expected.
    #[serde(default)]
    pub expect: Expect,
}

/// What is built.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// How the gateways speak BGP with the daemon.
    pub session: Session,
    /// Number of origin ASes to draw; ignored where `origin` lists them.
    pub origins: usize,
    /// Prefixes of each drawn origin.
    pub prefixes_per_origin: usize,
    /// Peers in each prefix.
    pub peers_per_prefix: usize,
    /// Draw IPv6 prefixes as well.
    pub ipv6: bool,
    /// The uplink that traffic of the origins comes in by.
    pub return_via: ReturnVia,
    /// The uplink that traffic of the pager to the validator's own address comes in by.
    pub pager_return_via: UplinkName,
    /// Round-trip times are drawn from this range, one for each prefix.
    pub rtt: [Span; 2],
    /// Share of packets that the internet loses, each way.
    pub loss: f64,
    /// Time between two messages of a connection, each way.
    pub send_gap: Span,
    /// All connections talk and rest together, as block times make them; without it they talk always.
    pub burst: Option<Burst>,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Share of the connections that the peers open.
    pub inbound: f64,
    /// `TCP_CONGESTION` of the workload.
    pub congestion_control: String,
    /// The gateways answer no ping; they forward all the same.
    pub silent_gateways: bool,
    /// Origins by hand.
    pub origin: Vec<OriginSpec>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            session: Session::Ibgp,
            origins: 5,
            prefixes_per_origin: 2,
            peers_per_prefix: 4,
            ipv6: true,
            return_via: ReturnVia::Mixed,
            pager_return_via: UplinkName::B,
            rtt: [Span::ms(5), Span::ms(150)],
            loss: 0.0,
            send_gap: Span::ms(50),
            burst: None,
            message_bytes: 200,
            inbound: 0.25,
            congestion_control: "cubic".to_owned(),
            silent_gateways: false,
            origin: Vec::new(),
        }
    }
}

/// When connections talk.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// From the begin of one burst to the next.
    pub every: Span,
    /// The part of it in which messages are sent.
    pub talk: Span,
}

/// An origin AS by hand; what is left out is drawn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginSpec {
    /// How faults refer to it.
    pub name: String,
    /// Its number.
    pub asn: Option<u32>,
    /// The uplink that its traffic comes in by.
    pub return_via: Option<UplinkName>,
    /// Its prefixes; empty: `prefixes_per_origin` of them are drawn.
    #[serde(default)]
    pub prefixes: Vec<ipnet::IpNet>,
    /// Peers in each prefix.
    pub peers_per_prefix: Option<usize>,
    /// It has an address that the daemon probes.
    #[serde(default = "yes")]
    pub anchor: bool,
    /// The round-trip time to it.
    pub rtt: Option<Span>,
}

const fn yes() -> bool {
    true
}

/// Kind of BGP session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Session {
    /// The gateways are in the validator's AS.
    Ibgp,
    /// The gateways are in their upstream's AS.
    Ebgp,
}

/// An uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkName {
    /// The primary.
    A,
    /// The backup.
    B,
}

impl UplinkName {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its place in arrays.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name that the daemon's configuration gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// How the drawn origins choose their way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReturnVia {
    /// All by the primary.
    A,
    /// All by the backup.
    B,
    /// Drawn for each, at least one of either.
    Mixed,
}

/// How the daemon is configured where the default does not do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// `[failover] mode`.
    pub mode: Mode,
    /// `[failover] lease`.
    pub lease: Span,
    /// `[probe] enabled`.
    pub probes: bool,
    /// `[tcp] ebpf`.
    pub ebpf: bool,
    /// A `[bgp]` table with both gateways.
    pub bgp: bool,
    /// How long routes and baselines get between the BGP sessions and the timeline. Zero: the timeline
    /// begins with the daemon's start, sessions or not.
    pub warm_up: Span,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            mode: Mode::Act,
            lease: Span::ms(30_000),
            probes: true,
            ebpf: true,
            bgp: true,
            warm_up: Span::ms(4_000),
        }
    }
}

/// `[failover] mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Only say.
    Shadow,
    /// Do.
    Act,
}

/// Something that happens on the timeline.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, from the start of the timeline.
    pub at: Span,
    /// What.
    pub kind: FaultKind,
    /// Where: an uplink.
    pub upstream: Option<UplinkName>,
    /// Where: `drawn`, an origin (`o2`), its first prefix (`o2/1`), or that one's third peer (`o2/1/3`).
    pub target: Option<String>,
    /// Time added to the round trip (`rtt-spike`).
    pub add: Option<Span>,
    /// Share of packets lost (`loss`).
    pub share: Option<f64>,
    /// Only packets that leave the validator, or only those that come to it (`loss`, `rtt-spike`).
    pub direction: Option<Direction>,
    /// Only packets of one address family.
    pub family: Option<Family>,
    /// Threads that spin (`cpu-hog`).
    pub threads: Option<u32>,
    /// What the pager does (`pager-fault`).
    pub answer: Option<PagerAnswer>,
    /// For how many requests (`pager-fault`).
    pub count: Option<u32>,
}

/// Which way, seen from the validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the validator.
    Out,
    /// To the validator.
    In,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// An address belongs to it.
    #[must_use]
    pub const fn has(self, address: std::net::IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// An upstream drops silently what leaves through it.
    EgressDark,
    /// An upstream drops silently what comes in through it.
    InboundDark,
    /// A gateway drops silently all that it gets and all that it would send.
    GatewayDead,
    /// A gateway answers ARP and neighbour discovery, drops all else that it gets and forwards nothing.
    GatewayMute,
    /// The far end of an uplink goes down: carrier is lost.
    CarrierLost,
    /// All packets from and to an origin AS are dropped.
    OriginDead,
    /// All packets from and to a prefix are dropped.
    PrefixDead,
    /// All packets from and to a peer are dropped.
    PeerDead,
    /// Round trips take longer.
    RttSpike,
    /// Packets are lost at random.
    Loss,
    /// A gateway withdraws its routes.
    BgpWithdraw,
    /// A gateway's routes take another path.
    BgpPathChange,
    /// The routes of a target come from another origin AS.
    BgpOriginChange,
    /// A gateway closes its BGP session.
    BgpSessionDown,
    /// SIGKILL to the daemon.
    DaemonKill,
    /// SIGSTOP to the daemon.
    DaemonStop,
    /// SIGCONT to the daemon.
    DaemonContinue,
    /// SIGSTOP to the validator's process.
    ValidatorStop,
    /// SIGCONT to the validator's process.
    ValidatorContinue,
    /// The validator's process ends, and another makes all connections anew.
    ValidatorRestart,
    /// The validator sends all that an uplink takes, into the queue behind its gateway.
    BulkUpload,
    /// Threads spin on every CPU of this machine.
    CpuHog,
    /// The pager misbehaves.
    PagerFault,
    /// All faults of the network and of BGP end, and so does `cpu-hog`.
    Heal,
}

impl FaultKind {
    /// It makes packets to peers vanish or late: what the lab measures from.
    #[must_use]
    pub const fn is_cut(self) -> bool {
        matches!(
            self,
            Self::EgressDark
                | Self::InboundDark
                | Self::GatewayDead
                | Self::GatewayMute
                | Self::CarrierLost
                | Self::OriginDead
                | Self::PrefixDead
                | Self::PeerDead
                | Self::RttSpike
                | Self::Loss
        )
    }

    /// It swallows all packets that it concerns.
    #[must_use]
    pub const fn drops_all(self) -> bool {
        self.is_cut() && !matches!(self, Self::RttSpike | Self::Loss)
    }

    const fn wants(self) -> Wants {
        let none = Wants {
            upstream: Need::No,
            target: Need::No,
            add: Need::No,
            share: Need::No,
            direction: Need::No,
            family: Need::No,
            threads: Need::No,
            answer: Need::No,
            count: Need::No,
        };
        match self {
            Self::EgressDark | Self::InboundDark => Wants {
                upstream: Need::Must,
                target: Need::May,
                family: Need::May,
                ..none
            },
            Self::GatewayDead
            | Self::GatewayMute
            | Self::CarrierLost
            | Self::BgpPathChange
            | Self::BulkUpload
            | Self::BgpSessionDown => Wants {
                upstream: Need::Must,
                ..none
            },
            Self::BgpWithdraw | Self::BgpOriginChange => Wants {
                upstream: Need::Must,
                target: Need::May,
                ..none
            },
            Self::OriginDead | Self::PrefixDead | Self::PeerDead => Wants {
                target: Need::May,
                upstream: Need::May,
                ..none
            },
            Self::RttSpike => Wants {
                upstream: Need::May,
                target: Need::May,
                add: Need::Must,
                direction: Need::May,
                family: Need::May,
                ..none
            },
            Self::Loss => Wants {
                upstream: Need::May,
                target: Need::May,
                share: Need::Must,
                direction: Need::May,
                family: Need::May,
                ..none
            },
            Self::PagerFault => Wants {
                answer: Need::Must,
                count: Need::May,
                ..none
            },
            Self::CpuHog => Wants {
                threads: Need::May,
                ..none
            },
            Self::DaemonKill
            | Self::DaemonStop
            | Self::DaemonContinue
            | Self::ValidatorStop
            | Self::ValidatorContinue
            | Self::ValidatorRestart
            | Self::Heal => none,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
    No,
}

struct Wants {
    upstream: Need,
    target: Need,
    add: Need,
    share: Need,
    direction: Need,
    family: Need,
    threads: Need,
    answer: Need,
    count: Need,
}

/// What a misbehaving pager does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PagerAnswer {
    /// Answers 500.
    #[serde(rename = "500")]
    ServerError,
    /// Answers 429.
    #[serde(rename = "429")]
    TooMany,
    /// Accepts the request and never answers.
    #[serde(rename = "hang")]
    Hang,
}

/// What is expected. What is left out is not checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Class of the verdict that the pages end with (`upstream_as`, ...), or several that will do.
    pub verdict: Option<Verdicts>,
    /// Classes that must all be among the daemon's verdicts, whatever their order.
    pub verdicts: Vec<String>,
    /// Whom the pages must name.
    pub culprit: Option<Culprit>,
    /// Aim for the time from cut to verdict; reported, not asserted.
    pub verdict_within: Option<Span>,
    /// Aim for the time from cut to the first page; reported, not asserted.
    pub page_within: Option<Span>,
    /// What becomes of routes.
    pub routes: Option<Routes>,
    /// The daemon's routes are gone so soon after the first heal, daemon-kill or daemon-stop.
    pub routes_gone_within: Option<Span>,
    /// What becomes of the connections that the fault hits, before it heals.
    pub traffic: Option<Traffic>,
    /// The pages in order: `trigger`, `resolve`, and `trigger+` for one or more.
    pub pages: Option<Vec<PagePattern>>,
    /// Each of these words occurs in some page, whatever its case.
    pub page_contains: Vec<String>,
    /// Each of these words occurs in the daemon's report, evidence included, whatever its case.
    pub report_contains: Vec<String>,
    /// No page is more severe.
    pub most_severe: Option<Severity>,
    /// Events that the pager accepts, at most.
    pub most_pages: Option<usize>,
    /// Plans whose routes are installed, at most.
    pub most_installs: Option<usize>,
    /// What must never happen.
    pub must_not: Vec<Forbidden>,
}

/// A page's severity, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Severity {
    Info,
    Warning,
    Error,
    Critical,
}

/// One class of verdicts, or several of which any will do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Verdicts {
    /// This one.
    One(String),
    /// One of these.
    AnyOf(Vec<String>),
}

impl Verdicts {
    /// The classes that will do.
    pub fn classes(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(class) => std::slice::from_ref(class).iter(),
            Self::AnyOf(classes) => classes.iter(),
        }
    }
}

/// Whom a page must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Culprit {
    /// The AS of the fault's upstream, as drawn.
    Upstream,
    /// The uplink's configured name.
    Uplink,
    /// The fault's target: the origin's AS, the prefix or the peer's address.
    Target,
}

/// What becomes of the daemon's routes before the fault heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routes {
    /// They are installed, and packets take the other uplink.
    Installed,
    /// None is in force in the end; one that was tried and taken back is fine.
    NotKept,
    /// None ever.
    None,
}

/// What becomes of existing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// At least 90 of 100 that the fault hit progress before it heals.
    Recovers,
    /// None that the fault hit progresses before it heals.
    Stuck,
    /// No connection goes without progress for a second beyond its RTT.
    Undisturbed,
}

/// A place in the order of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PagePattern {
    /// One trigger.
    Trigger,
    /// One or more triggers.
    #[serde(rename = "trigger+")]
    Triggers,
    /// One resolve.
    Resolve,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forbidden {
    /// A route of the daemon's protocol number.
    Route,
    /// A request at the pager.
    Page,
    /// A verdict other than `none` in the daemon's report.
    Verdict,
}
