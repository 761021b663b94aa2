//! What is asked of the RIB, and answered.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{EgressName, NeighborId, Prefix, RouteAttributes};

/// What to look for in the RIB: `"203.0.113.7"`, `"203.0.113.0/24"` or `"all"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RibQuery {
    /// Each neighbour's longest match of an address.
    Address(IpAddr),
    /// The routes of a prefix and of those inside it.
    Prefix(Prefix),
    /// All routes.
    All,
}

/// Neither an address nor a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an IP address nor a prefix such as 203.0.113.0/24")]
pub struct RibQueryError(String);

impl FromStr for RibQuery {
    type Err = RibQueryError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        text.parse::<Prefix>()
            .map(|prefix| Self::Prefix(prefix.trunc()))
            .map_err(|_| RibQueryError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for RibQuery {
    type Error = RibQueryError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RibQuery> for String {
    fn from(query: RibQuery) -> Self {
        query.to_string()
    }
}

impl fmt::Display for RibQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

/// A place between two routes, in the order of answers: the last route of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RibCursor {
    /// Whose route.
    pub neighbor: NeighborId,
    /// Its prefix.
    pub prefix: Prefix,
    /// Its path identifier (RFC 7911), if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
}

/// One route of one neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibRoute {
    /// Whose.
    pub neighbor: NeighborId,
    /// The egress that it stands for.
    pub egress: EgressName,
    /// Which of the neighbour's paths to the prefix (RFC 7911), if it sends several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// The route.
    pub route: RouteAttributes,
    /// It is what was last known; the session is lost, or has not announced it again yet.
    pub stale: bool,
}
