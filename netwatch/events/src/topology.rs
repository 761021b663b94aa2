use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An IP prefix with its host bits zero.
pub type Prefix = ipnet::IpNet;

/// A remote host, by the address that packets to it carry (never an IPv4-mapped IPv6 address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerKey(pub IpAddr);

impl PeerKey {
    /// The peer behind an address, with IPv4-mapped addresses made plain.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The configured name of an egress: an uplink through which packets can leave this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EgressName(pub String);

impl fmt::Display for EgressName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for EgressName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// An autonomous system number (RFC 6793), printed as `AS64500` (RFC 5396 asplain).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Asn(pub u32);

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}
