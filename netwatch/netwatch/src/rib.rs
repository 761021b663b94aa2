//! Pages of the RIB for those who ask over the socket.

use std::collections::BTreeMap;

use api::{AddressFamily, RibReply};
use bgp_feed::Families;
use events::{NeighborId, RibCursor, RibQuery, Timestamp};

/// Routes of a page where nobody says how many, and the most.
const LIMIT: usize = 1_000;
const MOST: usize = 10_000;

/// Which page is asked for.
pub struct Page {
    /// The routes as they were then.
    pub at: Option<Timestamp>,
    /// Only this neighbour's.
    pub neighbor: Option<NeighborId>,
    /// The most routes.
    pub limit: Option<usize>,
    /// Those behind this one.
    pub after: Option<RibCursor>,
}

/// Asks the feed.
pub async fn answer(bgp: &bgp_feed::Handle, query: RibQuery, page: Page) -> RibReply {
    let request = bgp_feed::RibRequest {
        query,
        neighbor: page.neighbor,
        at: page.at,
        limit: page.limit.unwrap_or(LIMIT).clamp(1, MOST),
        after: page.after,
    };
    let found = bgp.rib_page(request).await.unwrap_or_default();
    RibReply {
        query: Some(query),
        routes: found.routes,
        truncated: found.next.is_some(),
        next: found.next,
        known_since: found.known_since,
        partial: found.partial,
        neighbors: Vec::new(),
    }
}

/// Adds the RIB's figures.
pub async fn count(bgp: &bgp_feed::Handle, counters: &mut BTreeMap<String, u64>) {
    let Some(status) = bgp.rib_status().await else {
        return;
    };
    let memory = status.memory;
    for (name, value) in [
        ("rib_bytes", memory.bytes),
        ("rib_limit_bytes", memory.limit.unwrap_or(0)),
        ("rib_partial_neighbors", status.partial),
        ("rib_attribute_sets", status.attribute_sets),
        ("rib_history_bytes", memory.history_bytes),
        ("rib_history_changes", memory.history_changes),
        ("vrps", status.vrps),
    ] {
        let value = u64::try_from(value).unwrap_or(u64::MAX);
        counters.insert(format!("netwatch_bgp_{name}"), value);
    }
}

/// One family, or both.
pub const fn families(family: Option<AddressFamily>) -> Families {
    Families {
        ipv4: !matches!(family, Some(AddressFamily::Ipv6)),
        ipv6: !matches!(family, Some(AddressFamily::Ipv4)),
    }
}

/// The reverse of [`families`].
pub fn names(families: Families) -> Vec<AddressFamily> {
    let ipv4 = families.ipv4.then_some(AddressFamily::Ipv4);
    let ipv6 = families.ipv6.then_some(AddressFamily::Ipv6);
    ipv4.into_iter().chain(ipv6).collect()
}
