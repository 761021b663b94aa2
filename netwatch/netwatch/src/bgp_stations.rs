//! Monitored routers and RIS Live in `netwatch bgp neighbors`.

use api::{NeighborInfo, NeighborsReply, PeerStatisticsInfo, RisInfo, RouterInfo, StatisticInfo};
use bgp_core::TableStatus;
use bgp_core::bmp::Statistic;
use bgp_feed::{Handle, PeerStatistics, RisStatus, RouterStatus};
use events::{Asn, EgressName, NeighborId};

use crate::answers::{self, count};

/// All that is known of neighbours, routers and RIS Live.
pub async fn reply(bgp: Option<&Handle>) -> NeighborsReply {
    let Some(feed) = bgp else {
        return NeighborsReply::default();
    };
    let now = clock::now();
    let (routers, ris) = (feed.routers().await, feed.ris().await);
    let mut neighbors = answers::sessions(feed).await;
    neighbors.extend(tables(&routers, ris.as_ref()));
    NeighborsReply {
        neighbors,
        routers: routers
            .into_iter()
            .map(|router| {
                let [monitoring, reports, _, _, _, _, mirroring, _] = router.messages;
                RouterInfo {
                    address: router.address,
                    connected: router.connected,
                    since: Some(now.since(router.since)),
                    system_name: router.system_name,
                    system_description: router.system_description,
                    peers: count(router.peers),
                    route_monitoring: monitoring,
                    statistics_reports: reports,
                    statistics: router.statistics.into_iter().map(statistics).collect(),
                    route_mirroring: mirroring,
                    unannounced: router.unannounced,
                    refused: router.refused,
                    last_error: router.last_error,
                }
            })
            .collect(),
        ris: ris.map(|ris| RisInfo {
            url: ris.url,
            connected: ris.connected,
            since: Some(now.since(ris.since)),
            messages: ris.messages,
            malformed: ris.malformed,
            last_error: ris.last_error,
        }),
    }
}

fn statistics(peer: PeerStatistics) -> PeerStatisticsInfo {
    let figure = |figure: &Statistic| StatisticInfo {
        kind: figure.kind,
        name: figure.name().map(str::to_owned),
        family: figure.family,
        value: figure.value,
    };
    PeerStatisticsInfo {
        address: peer.address,
        asn: peer.asn,
        distinguisher: peer.distinguisher,
        figures: peer.figures.iter().map(figure).collect(),
    }
}

/// Tables of monitored routers and peers of RIS Live.
pub fn tables(routers: &[RouterStatus], ris: Option<&RisStatus>) -> Vec<NeighborInfo> {
    let now = clock::now();
    let mut found = Vec::new();
    for table in routers.iter().flat_map(|router| &router.tables) {
        let egress = table.egress.clone();
        let mut info = info(table.neighbor, table.asn, egress, table.up, &table.table);
        info.since = Some(now.since(table.since));
        info.last_error.clone_from(&table.last_error);
        found.push(info);
    }
    if let Some(ris) = ris {
        let told = ris.connected;
        found.extend(ris.peers.iter().map(|peer| {
            let egress = peer.egress.clone();
            info(peer.neighbor, peer.asn, egress, told, &peer.table)
        }));
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
        partial: table.partial,
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
