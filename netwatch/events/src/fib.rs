//! What this host's kernel does with packets to a peer (RTM_GETROUTE).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{EgressName, PeerKey, Prefix};

/// The kernel's route to a peer for a flow's source address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FibRoute {
    /// The FIB entry that won (RTM_F_FIB_MATCH).
    pub prefix: Prefix,
    /// Its routing table (`RT_TABLE_MAIN` is 254).
    pub table: u32,
    /// Its metric (`RTA_PRIORITY`).
    pub metric: u32,
    /// Its origin (`rtm_protocol`).
    pub protocol: u8,
    /// The interface that packets leave by.
    pub interface: String,
    /// The gateway; `None`: on link.
    pub gateway: Option<IpAddr>,
    /// The egress that this is, if it is a configured one.
    pub egress: Option<EgressName>,
    /// Installed by netwatch.
    pub ours: bool,
}

/// The kernel's way to a peer is now this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FibChange {
    /// The peer.
    pub peer: PeerKey,
    /// The source address that the route was asked for.
    pub source: IpAddr,
    /// The route; `None`: unreachable.
    pub route: Option<FibRoute>,
}
