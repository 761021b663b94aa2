//! What is answered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use events::{
    Asn, EgressName, Entry, FibRoute, Incident, NeighborId, Owner, PeerKey, Plan, PlanId, PlanMode,
    Prefix, ProbeSource, ProbeTarget, RibCursor, RibQuery, RibRoute, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{AddressFamily, KernelInfo, millis};

/// A reply: one line of JSON, its kind in `reply`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// To [`Request::Status`](crate::Request::Status).
    Status(Box<StatusReply>),
    /// To [`Request::Peers`](crate::Request::Peers).
    Peers(PeersReply),
    /// To [`Request::Incidents`](crate::Request::Incidents).
    Incidents(IncidentsReply),
    /// To [`Request::Routes`](crate::Request::Routes).
    Routes(RoutesReply),
    /// To [`Request::Rollback`](crate::Request::Rollback).
    Rollback(RollbackReply),
    /// To [`Request::BgpRefresh`](crate::Request::BgpRefresh).
    BgpRefresh(RefreshReply),
    /// To [`Request::BgpRib`](crate::Request::BgpRib).
    BgpRib(RibReply),
    /// To [`Request::BgpNeighbors`](crate::Request::BgpNeighbors).
    BgpNeighbors(NeighborsReply),
    /// To [`Request::PageTest`](crate::Request::PageTest).
    PageTest(PageTestReply),
    /// To [`Request::Subscribe`](crate::Request::Subscribe): notifications follow.
    Subscribed,
    /// To [`Request::Version`](crate::Request::Version).
    Version(VersionReply),
    /// To any request that could not be served.
    Error(ErrorReply),
}

impl Reply {
    /// An error.
    #[must_use]
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error(ErrorReply {
            code,
            message: message.into(),
        })
    }
}

/// Why a request could not be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The kind, for programs.
    pub code: ErrorCode,
    /// What, where and the remedy, for people.
    pub message: String,
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no JSON object with `request`, or a field of it is wrong.
    Malformed,
    /// No request is called so.
    UnknownRequest,
    /// The request's line is longer than the server takes.
    TooLong,
    /// Too many connections or requests at once.
    Busy,
    /// The daemon did not answer in time.
    TimedOut,
    /// The part that would answer is not configured or not running.
    Unavailable,
    /// It was tried and failed.
    Failed,
    /// The subscriber read too slowly and lost notifications; the stream ends.
    Lagged,
}

/// Everything at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The daemon's version.
    pub version: String,
    /// The host's configured name.
    pub host: String,
    /// The daemon's process.
    pub pid: u32,
    /// Time since it started.
    #[serde(rename = "uptime_ms", with = "millis")]
    pub uptime: Duration,
    /// The engine's clock now: what the timestamps of incidents refer to.
    pub now: Timestamp,
    /// May routes be changed?
    pub mode: PlanMode,
    /// The kill switch is set.
    pub kill_switch: bool,
    /// One line per kernel probe: its hook and mode, or why it is off.
    pub probes: Vec<String>,
    /// What is seen in the kernel, and how well.
    #[serde(default)]
    pub kernel: KernelInfo,
    /// Every counter of the daemon, losses among them, by the name that `/metrics` has for it.
    pub counters: BTreeMap<String, u64>,
    /// The peers.
    pub peers: Vec<PeerInfo>,
    /// Incidents that are open or recent, newest first.
    pub incidents: Vec<Incident>,
    /// The uplinks.
    pub egresses: Vec<EgressInfo>,
    /// The BGP neighbours.
    pub neighbors: Vec<NeighborInfo>,
    /// The plans whose routes are installed.
    pub plans: Vec<PlanInfo>,
    /// The incidents' recordings on disk, newest first.
    #[serde(default)]
    pub recordings: Vec<RecordingInfo>,
}

/// The recording of an incident, for `netwatch replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingInfo {
    /// Of which incident.
    pub incident: String,
    /// The file.
    pub path: std::path::PathBuf,
    /// Its size.
    pub bytes: u64,
    /// It is still written to.
    pub open: bool,
}

/// The peers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeersReply {
    /// By address.
    pub peers: Vec<PeerInfo>,
}

/// A peer's state, summed over its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// No connection.
    Down,
    /// Handshakes only.
    Opening,
    /// Established, nothing overdue.
    Up,
    /// An acknowledgement is overdue.
    Overdue,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Who.
    pub peer: PeerKey,
    /// Its state.
    pub state: PeerState,
    /// Established connections.
    pub connections: u32,
    /// Those that are overdue.
    pub overdue: u32,
    /// Handshakes under way.
    pub opening: u32,
    /// This host's address on the newest connection.
    pub source: Option<IpAddr>,
    /// The process behind it.
    pub owner: Option<Owner>,
    /// Smoothed round-trip time.
    #[serde(rename = "srtt_ms", with = "millis::option")]
    pub srtt: Option<Duration>,
    /// The usual round-trip time.
    #[serde(rename = "baseline_ms", with = "millis::option")]
    pub baseline: Option<Duration>,
    /// The round-trip time has left its baseline.
    pub rtt_spike: bool,
    /// Age of the oldest unacknowledged byte.
    #[serde(rename = "oldest_unacked_ms", with = "millis::option")]
    pub oldest_unacked: Option<Duration>,
    /// Retransmissions by class: `tail_loss_probe`, `timeout`, `fast`, `syn`, `syn_ack`, `other`.
    pub retransmits: BTreeMap<String, u64>,
    /// Failed attempts to connect by cause: `refused`, `timed_out`, `unreachable`, `reset`,
    /// `cancelled`, `other`.
    pub connect_failures: BTreeMap<String, u64>,
    /// The covering prefix in BGP, by the neighbour of the egress in use.
    pub prefix: Option<Prefix>,
    /// Its AS path, nearest first.
    pub as_path: Vec<Asn>,
    /// The kernel's route in use.
    pub route: Option<FibRoute>,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressInfo {
    /// Its configured name.
    pub name: EgressName,
    /// Its interface.
    pub interface: String,
    /// The interface can carry packets. `None`: not known yet.
    pub carrier: Option<bool>,
    /// What is probed through it.
    pub targets: Vec<TargetInfo>,
}

/// One target of active probes, through one egress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// What.
    pub target: ProbeTarget,
    /// With which kind of source address.
    pub source: ProbeSource,
    /// The newest probe was answered. `None`: none has finished yet.
    pub alive: Option<bool>,
    /// Round-trip time of the newest answer.
    #[serde(rename = "rtt_ms", with = "millis::option")]
    pub rtt: Option<Duration>,
    /// Probes finished.
    pub sent: u64,
    /// Those without an answer.
    pub lost: u64,
}

/// The BGP neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborsReply {
    /// By address; tables of monitored routers and peers of RIS Live among them.
    pub neighbors: Vec<NeighborInfo>,
    /// Routers that tell their tables by BMP.
    #[serde(default)]
    pub routers: Vec<RouterInfo>,
    /// RIS Live, where it is configured.
    #[serde(default)]
    pub ris: Option<RisInfo>,
}

/// A router that tells its tables by BMP (RFC 7854).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its connection is up.
    pub connected: bool,
    /// How long it is as it is.
    #[serde(rename = "since_ms", with = "millis::option")]
    pub since: Option<Duration>,
    /// Its name (sysName).
    pub system_name: Option<String>,
    /// What it is (sysDescr).
    pub system_description: Option<String>,
    /// Its peers that are up.
    pub peers: u64,
    /// Route Monitoring in this connection.
    pub route_monitoring: u64,
    /// Statistics Reports in this connection.
    pub statistics_reports: u64,
    /// The newest of them, of each peer that is up.
    #[serde(default)]
    pub statistics: Vec<PeerStatisticsInfo>,
    /// Route Mirroring in this connection; it is not read.
    pub route_mirroring: u64,
    /// Route Monitoring of peers without Peer Up, passed over.
    pub unannounced: u64,
    /// UPDATEs that cannot be read; each ended the table that it is of.
    pub refused: u64,
    /// Why the last connection ended.
    pub last_error: Option<String>,
}

/// A Statistics Report of a router about a peer (RFC 7854 section 4.8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatisticsInfo {
    /// The peer's address; unspecified for a Loc-RIB.
    pub address: IpAddr,
    /// Its AS.
    pub asn: Asn,
    /// Its distinguisher; 0 for the global instance.
    pub distinguisher: u64,
    /// Figures, in the router's order.
    pub figures: Vec<StatisticInfo>,
}

/// A figure of a Statistics Report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticInfo {
    /// Its type in IANA's registry.
    #[serde(rename = "type")]
    pub kind: u16,
    /// Its name, where it is known.
    pub name: Option<String>,
    /// AFI and SAFI, for those that are counted by family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<(u16, u8)>,
    /// The counter or gauge.
    pub value: u64,
}

/// The connection with RIS Live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RisInfo {
    /// Where it is.
    pub url: String,
    /// It is up.
    pub connected: bool,
    /// How long it is as it is.
    #[serde(rename = "since_ms", with = "millis::option")]
    pub since: Option<Duration>,
    /// Messages since the start.
    pub messages: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Why the last connection ended, or what could not be read.
    pub last_error: Option<String>,
}

/// One BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborInfo {
    /// Its address.
    pub neighbor: NeighborId,
    /// Its configured AS.
    pub asn: Asn,
    /// The uplink that its routes stand for.
    pub egress: EgressName,
    /// The session's state, by its name in RFC 4271: `Idle` ... `Established`. For tables that are
    /// told by others `Monitored`, or `Lost` while nobody tells of them.
    pub state: String,
    /// How long it has been in that state, where it is known.
    #[serde(rename = "since_ms", with = "millis::option")]
    pub since: Option<Duration>,
    /// IPv4 prefixes.
    pub ipv4_routes: u64,
    /// IPv6 prefixes.
    pub ipv6_routes: u64,
    /// The session is lost; the routes are what was last known.
    pub stale: bool,
    /// Routes were left out for want of memory: what is missing may exist.
    #[serde(default)]
    pub partial: bool,
    /// The newest error, in words.
    pub last_error: Option<String>,
    /// More about a session of ours; absent for neighbours that others tell of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<SessionInfo>>,
}

/// A BGP session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The neighbour is known by its prefix only.
    pub dynamic: bool,
    /// The neighbour is waited for, not connected to.
    pub passive: bool,
    /// Negotiated hold time; zero: none.
    #[serde(rename = "hold_time_ms", with = "millis::option")]
    pub hold_time: Option<Duration>,
    /// Capabilities of our OPEN.
    pub local_capabilities: Vec<String>,
    /// Capabilities of the neighbour's last OPEN.
    pub peer_capabilities: Vec<String>,
    /// End-of-RIB has come for every family of the session.
    pub complete: bool,
    /// The neighbour restarts gracefully, and has so long to be back (RFC 4724).
    #[serde(rename = "restarting_ms", with = "millis::option")]
    pub restarting: Option<Duration>,
    /// The most prefixes that it may announce, per family.
    pub max_prefixes: u32,
    /// It is near that.
    pub near_max_prefixes: bool,
    /// It announced more, and is refused until the daemon's restart or for `refused_ms`.
    pub refused: bool,
    /// See `refused`.
    #[serde(rename = "refused_ms", with = "millis::option")]
    pub refused_for: Option<Duration>,
    /// Connections are signed (TCP-MD5, RFC 2385).
    pub md5: bool,
    /// How many hops it may be away (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Sessions that were Established.
    pub sessions: u64,
    /// UPDATEs received.
    pub updates: u64,
    /// ROUTE-REFRESH messages received.
    pub route_refreshes: u64,
    /// Attributes in error that were discarded (RFC 7606).
    pub attributes_discarded: u64,
    /// Errors for which an UPDATE was treated as withdrawal (RFC 7606).
    pub treated_as_withdraw: u64,
    /// UPDATEs in error that ended a session (RFC 7606).
    pub session_resets: u64,
    /// The last NOTIFICATION.
    pub last_notification: Option<NotificationInfo>,
}

/// A NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationInfo {
    /// We sent it.
    pub sent: bool,
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Their names.
    pub name: String,
    /// What was wrong, or what the neighbour's operator says (RFC 9003).
    pub text: Option<String>,
    /// How long ago.
    #[serde(rename = "ago_ms", with = "millis::option")]
    pub ago: Option<Duration>,
}

/// What a neighbour was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshReply {
    /// The families.
    pub asked: Vec<AddressFamily>,
}

/// What the RIB holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibReply {
    /// What was asked for.
    pub query: Option<RibQuery>,
    /// The routes, by neighbour, prefix and path identifier. Empty without a query.
    pub routes: Vec<RibRoute>,
    /// There may be more routes than were sent.
    pub truncated: bool,
    /// Where the next page begins, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RibCursor>,
    /// The time that was asked for is before the history: nothing can be said of it. The past is
    /// known from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_since: Option<Timestamp>,
    /// A neighbour's table lacks routes for want of memory: what is missing here may exist.
    #[serde(default)]
    pub partial: bool,
    /// Without a query the tables' sizes.
    pub neighbors: Vec<NeighborInfo>,
}

/// Incidents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IncidentsReply {
    /// Newest first.
    pub incidents: Vec<Incident>,
}

/// Failover: what may be done, what is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesReply {
    /// May routes be changed?
    pub mode: PlanMode,
    /// The kill switch is set.
    pub kill_switch: bool,
    /// Nothing new is installed during a maintenance window: its reason and end.
    pub maintenance: Option<String>,
    /// The plans whose routes are installed (in shadow mode: would be).
    pub plans: Vec<PlanInfo>,
    /// Why the planner refused lately, newest first.
    pub refusals: Vec<String>,
}

/// A plan in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInfo {
    /// The plan with its routes.
    pub plan: Plan,
    /// Time since the kernel acknowledged the routes.
    #[serde(rename = "installed_for_ms", with = "millis")]
    pub installed_for: Duration,
    /// When the watchdog takes them back unless the lease is renewed.
    #[serde(rename = "lease_left_ms", with = "millis")]
    pub lease_left: Duration,
    /// Flows progress over them.
    pub verified: bool,
}

/// Which plans are being taken back. They are gone when `routes` no longer lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReply {
    /// The plans.
    pub plans: Vec<PlanId>,
}

/// How a test page went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageTestReply {
    /// One attempt per egress, or one where none is configured.
    pub attempts: Vec<PageAttempt>,
}

/// One attempt to page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageAttempt {
    /// Through which egress; `None`: the kernel's choice.
    pub egress: Option<EgressName>,
    /// The pager accepted it.
    pub accepted: bool,
    /// What the pager or the network said.
    pub detail: String,
    /// How long it took.
    #[serde(rename = "took_ms", with = "millis")]
    pub took: Duration,
}

/// The daemon's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// Of the daemon.
    pub version: String,
}

/// A line of the event stream, its kind in `event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Notification {
    /// A line was added to an incident's timeline.
    Entry(Box<Entry>),
    /// An incident began or changed.
    Incident(Box<Incident>),
}
