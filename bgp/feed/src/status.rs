//! How a neighbour fares, for people and machines.

use std::net::IpAddr;
use std::time::Duration;

use bgp_core::{Capability, State};
use events::{Asn, EgressName, Timestamp};
use serde::{Deserialize, Serialize};

/// How a neighbour fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its AS: that of its OPEN, else by configuration.
    pub asn: Asn,
    /// The egress that its routes stand for.
    pub egress: EgressName,
    /// It is not in the configuration by its address, but by a prefix.
    pub dynamic: bool,
    /// It is waited for, not connected to.
    pub passive: bool,
    /// The most advanced state of its connections; Active (or Connect) while there is none.
    pub state: State,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// Time since the session was Established.
    pub uptime: Option<Duration>,
    /// Negotiated hold time, from OpenConfirm on.
    pub hold_time: Option<Duration>,
    /// What we say in OPEN.
    pub local_capabilities: Vec<Capability>,
    /// What it said in its last OPEN.
    pub peer_capabilities: Vec<Capability>,
    /// IPv4 prefixes in its table.
    pub ipv4_prefixes: usize,
    /// IPv6 prefixes in its table.
    pub ipv6_prefixes: usize,
    /// The most prefixes that it may announce, per family.
    pub max_prefixes: u32,
    /// It is near that.
    pub prefixes_warned: bool,
    /// It announced more, and is refused. For so long; `None` within: until the daemon's restart.
    pub refused: Option<Option<Duration>>,
    /// The table is what was last known: the session is lost.
    pub stale: bool,
    /// Routes were left out for want of memory.
    pub partial: bool,
    /// It restarts gracefully (RFC 4724), and has so long to be back.
    pub restarting: Option<Duration>,
    /// End-of-RIB has come for every family of the session.
    pub complete: bool,
    /// Connections are signed (TCP-MD5).
    pub md5: bool,
    /// How many hops it may be away (RFC 5082).
    pub ttl_security: Option<u8>,
    /// What was counted since the start.
    pub counters: Counters,
    /// The last NOTIFICATION, sent or received.
    pub last_notification: Option<LastNotification>,
    /// Why the last session or attempt ended.
    pub last_error: Option<String>,
}

/// What is counted of a neighbour, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
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
}

/// A NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastNotification {
    /// We sent it.
    pub sent: bool,
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What was wrong, or what the operator over there says (RFC 9003).
    pub text: Option<String>,
    /// When.
    pub at: Timestamp,
}
