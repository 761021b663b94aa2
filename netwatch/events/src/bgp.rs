//! What the routers tell.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Asn, EgressName, PeerKey, Prefix, Timestamp};

/// A BGP neighbour, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NeighborId(pub IpAddr);

/// A route's attributes, as far as decisions need them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAttributes {
    /// The prefix announced.
    pub prefix: Prefix,
    /// AS_PATH as a flat list, nearest first; members of an AS_SET are appended in order.
    pub as_path: Vec<Asn>,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// When the daemon received it.
    pub received_at: Timestamp,
}

impl RouteAttributes {
    /// The AS that originated the route, if the path names one.
    #[must_use]
    pub fn origin(&self) -> Option<Asn> {
        self.as_path.last().copied()
    }
}

/// The best route of one neighbour for one watched peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFact {
    /// The peer.
    pub peer: PeerKey,
    /// Whose route.
    pub neighbor: NeighborId,
    /// The egress that the neighbour's routes stand for, by configuration.
    pub egress: EgressName,
    /// The covering route; `None` where the neighbour has none.
    pub route: Option<RouteAttributes>,
    /// The session is lost: the route is what was last known.
    pub stale: bool,
}

/// A change in a neighbour's table. Sent where it touches a watched peer or an anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteChange {
    /// Whose table.
    pub neighbor: NeighborId,
    /// The egress that the neighbour's routes stand for.
    pub egress: EgressName,
    /// The prefix.
    pub prefix: Prefix,
    /// The route before; `None`: newly announced.
    pub old: Option<RouteAttributes>,
    /// The route after; `None`: withdrawn.
    pub new: Option<RouteAttributes>,
    /// Watched addresses that the prefix covers best, before or after.
    pub peers: Vec<PeerKey>,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum SessionDownReason {
    /// Our hold timer expired (RFC 4271 section 6.5).
    HoldTimerExpired,
    /// The neighbour sent a NOTIFICATION.
    NotificationReceived {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
    },
    /// We sent a NOTIFICATION.
    NotificationSent {
        /// Error code.
        code: u8,
        /// Error subcode.
        subcode: u8,
        /// What was wrong.
        text: String,
    },
    /// The TCP connection ended.
    ConnectionLost {
        /// How.
        text: String,
    },
    /// The operator or the daemon's stop ended it.
    Administrative,
}

/// A signal of the BGP feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum BgpSignal {
    /// A session is Established.
    SessionUp {
        /// With whom.
        neighbor: NeighborId,
        /// Its AS, from the 4-byte capability.
        asn: Asn,
        /// The egress that it stands for.
        egress: EgressName,
    },
    /// A session is lost; its routes are stale, not withdrawn.
    SessionDown {
        /// With whom.
        neighbor: NeighborId,
        /// The egress that it stands for.
        egress: EgressName,
        /// Why.
        reason: SessionDownReason,
    },
    /// End-of-RIB (RFC 4724) for one address family: the table is complete.
    EndOfRib {
        /// Whose.
        neighbor: NeighborId,
        /// The family is IPv6.
        ipv6: bool,
    },
    /// The covering route of a watched peer.
    Fact(RouteFact),
    /// A route changed.
    Change(RouteChange),
}
