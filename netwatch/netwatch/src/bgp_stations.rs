//! Monitored routers and RIS Live in `netwatch bgp neighbors`.

use api::{NeighborInfo, NeighborsReply, RisInfo, RouterInfo};
use bgp_core::TableStatus;
use bgp_feed::Handle;
use events::{Asn, EgressName, NeighborId};

use crate::answers::{self, count};

/// All that is known of neighbours, routers and RIS Live.
pub async fn reply(bgp: Option<&Handle>) -> NeighborsReply {
    let Some(feed) = bgp else {
        return NeighborsReply::default();
    };
    let now = clock::now();
    NeighborsReply {
        neighbors: answers::neighbors(bgp).await,
        routers: feed
            .routers()
            .await
            .into_iter()
            .map(|router| {
                let [monitoring, statistics, _, _, _, _, mirroring, _] = router.messages;
                RouterInfo {
                    address: router.address,
                    connected: router.connected,
                    since: Some(now.since(router.since)),
                    system_name: router.system_name,
                    system_description: router.system_description,
                    peers: count(router.peers),
                    route_monitoring: monitoring,
                    statistics_reports: statistics,
                    route_mirroring: mirroring,
                    unannounced: router.unannounced,
                    refused: router.refused,
                    last_error: router.last_error,
                }
            })
            .collect(),
        ris: feed.ris().await.map(|ris| RisInfo {
            url: ris.url,
            connected: ris.connected,
            since: Some(now.since(ris.since)),
            messages: ris.messages,
            malformed: ris.malformed,
            last_error: ris.last_error,
        }),
    }
}

/// Tables of monitored routers and peers of RIS Live.
pub async fn neighbors(bgp: &Handle) -> Vec<NeighborInfo> {
    let now = clock::now();
    let mut found = Vec::new();
    for router in bgp.routers().await {
        for table in router.tables {
            let mut info = info(
                table.neighbor,
                table.asn,
                table.egress,
                table.up,
                &table.table,
            );
            info.since = Some(now.since(table.since));
            info.last_error = table.last_error;
            found.push(info);
        }
    }
    if let Some(ris) = bgp.ris().await {
        for peer in ris.peers {
            let told = ris.connected;
            let table = info(peer.neighbor, peer.asn, peer.egress, told, &peer.table);
            found.push(table);
        }
    }
    found
}

fn info(
    neighbor: NeighborId,
    asn: Asn,
    egress: EgressName,
    told: bool,
    table: &TableStatus,
) -> NeighborInfo {
    NeighborInfo {
        neighbor,
        asn,
        egress,
        state: if told { "Monitored" } else { "Lost" }.to_owned(),
        since: None,
        ipv4_routes: count(table.ipv4),
        ipv6_routes: count(table.ipv6),
        stale: table.stale,
        last_error: None,
        session: None,
    }
}

/// A line for each router, and one for RIS Live.
pub fn print(reply: &NeighborsReply) {
    let error = |error: &Option<String>| {
        error
            .as_ref()
            .map_or_else(String::new, |error| format!("  last error: {error}"))
    };
    let up = |connected: bool| {
        if connected {
            "connected"
        } else {
            "NOT CONNECTED"
        }
    };
    for router in &reply.routers {
        println!(
            "BMP router {:<16} {} {:<14} {} peers, {} route monitoring, {} statistics{}{}{}",
            router.address.to_string(),
            router.system_name.as_deref().unwrap_or("-"),
            up(router.connected),
            router.peers,
            router.route_monitoring,
            router.statistics_reports,
            if router.unannounced > 0 {
                format!(", {} of unannounced peers", router.unannounced)
            } else {
                String::new()
            },
            if router.refused > 0 {
                format!(", {} UPDATEs REFUSED", router.refused)
            } else {
                String::new()
            },
            error(&router.last_error),
        );
    }
    if let Some(ris) = &reply.ris {
        println!(
            "RIS Live {} {} {} messages, {} malformed{}",
            ris.url,
            up(ris.connected),
            ris.messages,
            ris.malformed,
            error(&ris.last_error),
        );
    }
}
