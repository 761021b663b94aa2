//! What can be asked.

use std::fmt;

use events::{NeighborId, PlanId, RibCursor, RibQuery, Timestamp};
use serde::{Deserialize, Serialize};

/// A request: one line of JSON, its kind in `request`.
///
/// ```
/// # use api::Request;
/// let request: Request = serde_json::from_str(r#"{"request":"rollback","plan":7}"#).unwrap();
/// assert_eq!(request.name(), "rollback");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// Everything at a glance.
    Status,
    /// The peers, all of them.
    Peers,
    /// Incidents that are open or recent.
    Incidents,
    /// Failover: mode, kill switch, routes owned with their plans and leases.
    Routes,
    /// Take back the routes of one plan, or of all.
    Rollback {
        /// Which; absent: all.
        #[serde(default)]
        plan: Option<PlanId>,
    },
    /// Look into the RIB.
    BgpRib {
        /// Routes that cover this address, or this prefix and what lies inside it, or all; absent:
        /// the tables' sizes only.
        #[serde(default)]
        query: Option<RibQuery>,
        /// The routes as they were then, by CLOCK_MONOTONIC; absent: as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
        /// Only this neighbour's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        neighbor: Option<NeighborId>,
        /// The most routes of the page: 1,000 where it is absent, and at most 10,000.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
        /// The page behind an earlier one: that one's `next`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<RibCursor>,
    },
    /// The BGP neighbours.
    BgpNeighbors,
    /// Ask a neighbour for its routes (RFC 2918).
    BgpRefresh {
        /// Whom.
        neighbor: NeighborId,
        /// `"ipv4"` or `"ipv6"`; absent: what the session carries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        family: Option<AddressFamily>,
    },
    /// Send a test page through every egress.
    PageTest,
    /// Turn this connection into a stream of [`Notification`](crate::Notification)s.
    Subscribe,
    /// The daemon's version.
    Version,
}

impl Request {
    /// The values of `request`.
    pub const NAMES: [&'static str; 11] = [
        "status",
        "peers",
        "incidents",
        "routes",
        "rollback",
        "bgp_rib",
        "bgp_neighbors",
        "bgp_refresh",
        "page_test",
        "subscribe",
        "version",
    ];

    /// Its `request`, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Peers => "peers",
            Self::Incidents => "incidents",
            Self::Routes => "routes",
            Self::Rollback { .. } => "rollback",
            Self::BgpRib { .. } => "bgp_rib",
            Self::BgpNeighbors => "bgp_neighbors",
            Self::BgpRefresh { .. } => "bgp_refresh",
            Self::PageTest => "page_test",
            Self::Subscribe => "subscribe",
            Self::Version => "version",
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AddressFamily {
    Ipv4,
    Ipv6,
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_stable() {
        let all = [
            (Request::Status, r#"{"request":"status"}"#),
            (Request::Peers, r#"{"request":"peers"}"#),
            (Request::Incidents, r#"{"request":"incidents"}"#),
            (Request::Routes, r#"{"request":"routes"}"#),
            (
                Request::Rollback {
                    plan: Some(PlanId(7)),
                },
                r#"{"request":"rollback","plan":7}"#,
            ),
            (
                Request::BgpRib {
                    query: Some("203.0.113.9/24".parse().unwrap()),
                    at: None,
                    neighbor: None,
                    limit: None,
                    after: None,
                },
                r#"{"request":"bgp_rib","query":"203.0.113.0/24"}"#,
            ),
            (Request::BgpNeighbors, r#"{"request":"bgp_neighbors"}"#),
            (
                Request::BgpRefresh {
                    neighbor: NeighborId::session([192, 0, 2, 1].into()),
                    family: Some(AddressFamily::Ipv6),
                },
                r#"{"request":"bgp_refresh","neighbor":"192.0.2.1","family":"ipv6"}"#,
            ),
            (Request::PageTest, r#"{"request":"page_test"}"#),
            (Request::Subscribe, r#"{"request":"subscribe"}"#),
            (Request::Version, r#"{"request":"version"}"#),
        ];
        assert_eq!(all.len(), Request::NAMES.len());
        for ((request, json), name) in all.into_iter().zip(Request::NAMES) {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
            assert_eq!(serde_json::from_str::<Request>(json).unwrap(), request);
            assert_eq!(request.name(), name);
        }
    }

    #[test]
    fn a_later_page_of_the_past() {
        let json = r#"{"request":"bgp_rib","query":"all","at":5,"neighbor":"192.0.2.1","limit":9,"after":{"neighbor":"192.0.2.1","prefix":"10.0.0.0/8"}}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        let neighbor = NeighborId::session([192, 0, 2, 1].into());
        let expected = Request::BgpRib {
            query: Some(RibQuery::All),
            at: Some(Timestamp::from_nanos(5)),
            neighbor: Some(neighbor),
            limit: Some(9),
            after: Some(RibCursor {
                neighbor,
                prefix: "10.0.0.0/8".parse().unwrap(),
                path_id: None,
            }),
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn what_may_be_left_out_and_what_not() {
        let read = serde_json::from_str::<Request>;
        let rollback = read(r#"{"request":"rollback"}"#).unwrap();
        assert_eq!(rollback, Request::Rollback { plan: None });
        let error = read(r#"{"request":"bgp_rib","query":"nonsense"}"#).unwrap_err();
        assert!(
            error.to_string().contains("neither an IP address"),
            "{error}"
        );
        assert!(
            read(r#"{"request":"rollback","plan_id":7}"#).is_err(),
            "a typo must not mean all"
        );
    }
}
