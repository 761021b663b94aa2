//! Real sessions with a real router.

use bgp_feed::RibQuery;
use events::{Asn, NeighborId, SessionDownReason};

use crate::bird::{Bird, Session};
use crate::feed::{Feed, LOCAL_AS, ip, settings};

const ROUTES: &str = "
protocol static s4 { ipv4;
  route 203.0.113.0/24 unreachable { bgp_path.prepend(64510); bgp_path.prepend(64501); };
  route 203.0.112.0/23 unreachable { bgp_path.prepend(4200000001); bgp_path.prepend(64502); };
}
protocol static w4 { ipv4;
  route 203.0.113.128/25 unreachable { bgp_path.prepend(64520); bgp_path.prepend(64503); };
}
protocol static d4 { ipv4; route 0.0.0.0/0 unreachable { bgp_path.prepend(64504); }; }
protocol static s6 { ipv6;
  route 2001:db8:1::/48 unreachable { bgp_path.prepend(64510); bgp_path.prepend(64501); };
}
";

const PEER: &str = "203.0.113.200";
const PEER6: &str = "2001:db8:1::7";

fn path(numbers: &[u32]) -> Vec<Asn> {
    numbers.iter().copied().map(Asn).collect()
}

fn router(feed: &Feed, local: &str, local_as: u32, options: &str) -> Bird {
    let session = Session {
        feed: feed.address(),
        feed_as: LOCAL_AS,
        local,
        local_as,
        options,
    };
    Bird::start(&(ROUTES.to_owned() + &session.config()))
}

#[tokio::test(flavor = "multi_thread")]
async fn ibgp_over_ipv4_table_changes_loss_and_return() {
    let mut feed = Feed::start(settings("127.0.0.1", "127.0.1.2", LOCAL_AS));
    feed.handle.watch(vec![ip(PEER), ip(PEER6)]);
    let mut bird = router(&feed, "127.0.1.2", LOCAL_AS, "");
    let neighbor = NeighborId(ip("127.0.1.2"));
    assert_eq!(feed.up().await, (neighbor, Asn(LOCAL_AS)));
    feed.complete().await;

    let all = feed.handle.rib(RibQuery::All, 100).await;
    let prefixes: Vec<String> = all.iter().map(|r| r.route.prefix.to_string()).collect();
    assert_eq!(
        prefixes,
        [
            "0.0.0.0/0",
            "203.0.112.0/23",
            "203.0.113.0/24",
            "203.0.113.128/25",
            "2001:db8:1::/48"
        ]
    );
    let paths: Vec<Vec<Asn>> = all.iter().map(|r| r.route.as_path.clone()).collect();
    assert_eq!(
        paths,
        [
            path(&[64504]),
            path(&[64502, 4_200_000_001]),
            path(&[64501, 64510]),
            path(&[64503, 64520]),
            path(&[64501, 64510])
        ]
    );
    assert!(all.iter().all(|route| !route.stale));
    let matched = feed.handle.rib(RibQuery::Address(ip(PEER)), 10).await;
    assert_eq!(matched[0].route.prefix.to_string(), "203.0.113.128/25");
    let status = feed.status().await;
    assert_eq!((status.ipv4_prefixes, status.ipv6_prefixes), (4, 1));
    assert!(status.complete && !status.stale && status.uptime.is_some());

    // The most specific goes: the next one covers the peer.
    bird.control("disable w4");
    let change = feed.change().await;
    assert_eq!(change.prefix.to_string(), "203.0.113.128/25");
    assert_eq!(change.old.unwrap().as_path, path(&[64503, 64520]));
    assert_eq!((change.new, change.peers[0].0), (None, ip(PEER)));
    let fact = feed.fact(PEER).await;
    assert_eq!(fact.route.unwrap().prefix.to_string(), "203.0.113.0/24");

    // Another path, then another next hop.
    bird.reconfigure(
        "prepend(64510); bgp_path.prepend(64501); };\n  route 203.0.112",
        "prepend(64511); bgp_path.prepend(64501); };\n  route 203.0.112",
    );
    let change = feed.change().await;
    assert_eq!(change.old.unwrap().as_path, path(&[64501, 64510]));
    assert_eq!(change.new.unwrap().as_path, path(&[64501, 64511]));
    bird.reconfigure("next hop address 192.0.2.1", "next hop address 192.0.2.9");
    let change = feed.change().await;
    assert_eq!(change.old.unwrap().next_hop, ip("192.0.2.1"));
    assert_eq!(change.new.unwrap().next_hop, ip("192.0.2.9"));

    // Killed: stale, nothing withdrawn.
    bird.kill();
    assert!(matches!(
        feed.down().await,
        SessionDownReason::ConnectionLost { .. }
    ));
    let (fact, fact6) = (feed.fact(PEER).await, feed.fact(PEER6).await);
    assert!(fact.stale && fact.route.is_some() && fact6.stale && fact6.route.is_some());
    let all = feed.handle.rib(RibQuery::All, 100).await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|route| route.stale));
    assert!(feed.status().await.stale);

    bird.restart();
    feed.up().await;
    let fact = feed.until_fresh(PEER).await;
    assert_eq!(fact.route.unwrap().prefix.to_string(), "203.0.113.128/25");
    assert!(feed.until_fresh(PEER6).await.route.is_some());
    feed.handle.stop().await;
}
