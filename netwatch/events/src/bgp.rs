//! What the routers tell.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Asn, EgressName, PeerKey, Prefix, Timestamp};

/// Whose routes: a BGP neighbour of ours, or one that a monitored router or an archive tells of.
///
/// As text the address, and `address@bmp:router/view` or `address@mrt` or `address@ris` where the
/// routes do not come by a session of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborId {
    /// The neighbour's address. For a Loc-RIB (RFC 9069) the router's.
    pub address: IpAddr,
    /// How its routes are learnt.
    pub learned: Learned,
}

/// How a neighbour's routes are learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Learned {
    /// By a session of ours.
    Session,
    /// From a router that monitors its neighbours for us (BMP, RFC 7854).
    Bmp {
        /// The monitored router.
        router: IpAddr,
        /// Peer Distinguisher: the router's VRF, 0 for the global instance (section 4.2).
        distinguisher: u64,
        /// Which of the router's tables.
        view: RibView,
    },
    /// From an MRT archive (RFC 6396).
    Mrt,
    /// From RIS Live.
    RisLive,
}

/// A table of a monitored router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RibView {
    /// Adj-RIB-In before the router's import policy (RFC 7854).
    InPrePolicy,
    /// Adj-RIB-In after it (RFC 7854).
    InPostPolicy,
    /// Adj-RIB-Out before its export policy (RFC 8671).
    OutPrePolicy,
    /// Adj-RIB-Out after it (RFC 8671).
    OutPostPolicy,
    /// Loc-RIB (RFC 9069).
    Loc,
}

impl RibView {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::InPrePolicy, "in-pre"),
        (Self::InPostPolicy, "in-post"),
        (Self::OutPrePolicy, "out-pre"),
        (Self::OutPostPolicy, "out-post"),
        (Self::Loc, "loc"),
    ];
}

impl fmt::Display for RibView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(view, _)| view == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl NeighborId {
    /// Its routes are those of a collector somewhere: not what an uplink's own router has.
    #[must_use]
    pub const fn is_elsewhere(&self) -> bool {
        matches!(self.learned, Learned::Mrt | Learned::RisLive)
    }

    /// A neighbour with which we have a session.
    #[must_use]
    pub const fn session(address: IpAddr) -> Self {
        Self {
            address,
            learned: Learned::Session,
        }
    }
}

impl fmt::Display for NeighborId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.learned {
            Learned::Session => write!(f, "{address}"),
            Learned::Bmp {
                router,
                distinguisher: 0,
                view,
            } => write!(f, "{address}@bmp:{router}/{view}"),
            Learned::Bmp {
                router,
                distinguisher,
                view,
            } => write!(f, "{address}@bmp:{router}/{view}/{distinguisher:x}"),
            Learned::Mrt => write!(f, "{address}@mrt"),
            Learned::RisLive => write!(f, "{address}@ris"),
        }
    }
}

/// Text that names no neighbour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no neighbour: write its address, or ADDRESS@bmp:ROUTER/VIEW, ADDRESS@mrt, ADDRESS@ris"
)]
pub struct NotANeighbor(String);

impl FromStr for NeighborId {
    type Err = NotANeighbor;

    fn from_str(text: &str) -> Result<Self, NotANeighbor> {
        parse_neighbor(text).ok_or_else(|| NotANeighbor(text.to_owned()))
    }
}

fn parse_neighbor(text: &str) -> Option<NeighborId> {
    let Some((address, learned)) = text.split_once('@') else {
        return Some(NeighborId::session(text.parse().ok()?));
    };
    let learned = match learned {
        "mrt" => Learned::Mrt,
        "ris" => Learned::RisLive,
        bmp => {
            let mut parts = bmp.strip_prefix("bmp:")?.split('/');
            let router = parts.next()?.parse().ok()?;
            let name = parts.next()?;
            let (view, _) = RibView::NAMES.into_iter().find(|(_, n)| *n == name)?;
            let distinguisher = match parts.next() {
                Some(hex) => u64::from_str_radix(hex, 16).ok()?,
                None => 0,
            };
            if parts.next().is_some() {
                return None;
            }
            Learned::Bmp {
                router,
                distinguisher,
                view,
            }
        }
    };
    Some(NeighborId {
        address: address.parse().ok()?,
        learned,
    })
}

impl Serialize for NeighborId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NeighborId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Route origin validation (RFC 6811 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginValidation {
    /// A VRP covers the prefix and matches origin and length.
    Valid,
    /// VRPs cover the prefix, and none matches.
    Invalid,
    /// No VRP covers the prefix.
    NotFound,
}

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
    /// Origin validation, where there are VRPs to validate by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<OriginValidation>,
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

/// How much a burst of withdrawals points to one AS link.
///
/// After SWIFT (SIGCOMM 2017): the weighted geometric mean, 3 : 1, of the share of the burst's
/// prefixes that lost the link and the share of the link's prefixes that lost it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkScore {
    /// The link's ends, the nearer to us first.
    pub link: (Asn, Asn),
    /// Prefixes of the burst whose old path crossed the link.
    pub withdrawn: u32,
    /// Prefixes whose path still crosses it.
    pub remaining: u32,
    /// 0 to 1.
    pub score: f64,
}

/// The same for an AS: all links that lead to it or away from it, and the prefixes that it originates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AsScore {
    /// The AS.
    pub asn: Asn,
    /// Prefixes of the burst whose old path crossed or ended in the AS.
    pub withdrawn: u32,
    /// Prefixes whose path still does.
    pub remaining: u32,
    /// 0 to 1. Where it exceeds the best link's, the links that fail have this AS in common.
    pub score: f64,
}

/// A burst of withdrawals and path changes in one neighbour's table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Burst {
    /// Whose table.
    pub neighbor: NeighborId,
    /// The egress that the neighbour's routes stand for.
    pub egress: EgressName,
    /// When the burst began.
    pub since: Timestamp,
    /// Prefixes withdrawn or moved to another path.
    pub prefixes: u32,
    /// The links that it may be, most suspect first: those on old paths and not on the new.
    pub links: Vec<LinkScore>,
    /// The ASes that it may be, most suspect first.
    #[serde(default)]
    pub ases: Vec<AsScore>,
    /// Routes were left out of the table for want of memory: the shares are estimates.
    pub partial: bool,
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
        /// What its operator says about a shutdown or reset (RFC 9003), control characters escaped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Many routes changed at once. Sent again while the burst grows.
    Burst(Burst),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbor_survives_its_text() {
        for text in [
            "192.0.2.1",
            "2001:db8::1",
            "192.0.2.1@bmp:198.51.100.1/in-pre",
            "2001:db8::1@bmp:2001:db8::2/out-post/1f",
            "0.0.0.0@bmp:198.51.100.1/loc",
            "192.0.2.1@mrt",
            "192.0.2.1@ris",
        ] {
            let id: NeighborId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<NeighborId>(&json).unwrap(), id);
        }
        for text in [
            "",
            "192.0.2",
            "192.0.2.1@",
            "192.0.2.1@bmp:x/loc",
            "::1@bmp:::2/loc/0/0",
        ] {
            let error = text.parse::<NeighborId>().unwrap_err();
            assert!(error.to_string().contains("names no neighbour"));
        }
    }
}
