//! Sessions with a real router.

use std::time::Duration;

use bgp_feed::State;
use events::{Asn, BgpSignal, NeighborId, RibQuery, SessionDownReason};

use crate::bird::{Bird, Session};
use crate::feed::{Feed, LOCAL_AS, ip, settings};
use crate::namespace::{self, FEED, FEED6, ROUTER, ROUTER6};

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

/// In 203.0.113.128/25.
const PEER: &str = "203.0.113.200";
/// In 203.0.113.0/24 only.
const LOW_PEER: &str = "203.0.113.7";
const PEER6: &str = "2001:db8:1::7";

fn path(numbers: &[u32]) -> Vec<Asn> {
    numbers.iter().copied().map(Asn).collect()
}

fn session(feed: &Feed) -> Session<'static> {
    Session {
        feed: feed.address(),
        feed_as: LOCAL_AS,
        local: ROUTER,
        local_as: LOCAL_AS,
        options: "",
        ipv4: "export filter { bgp_next_hop = 192.0.2.1; accept; };",
    }
}

fn start(session: &Session<'_>) -> Bird {
    Bird::start(&(ROUTES.to_owned() + &session.config()))
}

#[test]
fn ibgp_over_ipv4_table_changes_loss_and_return() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        feed.handle.watch(vec![ip(PEER), ip(LOW_PEER), ip(PEER6)]);
        let mut bird = start(&session(&feed));
        let neighbor = NeighborId::session(ip(ROUTER));
        assert_eq!(feed.up().await, (neighbor, Asn(LOCAL_AS)));
        feed.complete().await;

        let all = feed.handle.rib(RibQuery::All, 100).await;
        let table: Vec<(String, Vec<Asn>)> = all
            .iter()
            .map(|found| (found.route.prefix.to_string(), found.route.as_path.clone()))
            .collect();
        assert_eq!(
            table,
            [
                ("0.0.0.0/0", path(&[64504])),
                ("203.0.112.0/23", path(&[64502, 4_200_000_001])),
                ("203.0.113.0/24", path(&[64501, 64510])),
                ("203.0.113.128/25", path(&[64503, 64520])),
                ("2001:db8:1::/48", path(&[64501, 64510])),
            ]
            .map(|(prefix, path)| (prefix.to_owned(), path))
        );
        assert!(all.iter().all(|route| !route.stale));
        let matched = feed.handle.rib(RibQuery::Address(ip(PEER)), 10).await;
        assert_eq!(matched[0].route.prefix.to_string(), "203.0.113.128/25");
        let within = RibQuery::Prefix("203.0.113.0/24".parse().unwrap());
        assert_eq!(feed.handle.rib(within, 10).await.len(), 2);
        assert_eq!(feed.handle.rib(RibQuery::All, 3).await.len(), 3);
        let status = feed.status().await;
        assert_eq!((status.ipv4_prefixes, status.ipv6_prefixes), (4, 1));
        assert!(status.complete && !status.stale && status.uptime.is_some());

        // The most specific goes: the next one covers the peer. It comes back: so does the cover.
        bird.control("disable w4");
        let change = feed.change("203.0.113.128/25").await;
        assert_eq!(change.old.unwrap().as_path, path(&[64503, 64520]));
        assert_eq!((change.new, change.peers.len()), (None, 1));
        assert_eq!(change.peers[0].0, ip(PEER));
        let fact = feed.fact(PEER).await;
        assert_eq!(fact.route.unwrap().prefix.to_string(), "203.0.113.0/24");
        bird.control("enable w4");
        let fact = feed.fact(PEER).await;
        assert_eq!(fact.route.unwrap().prefix.to_string(), "203.0.113.128/25");

        // Another path, then another next hop.
        bird.reconfigure(
            "203.0.113.0/24 unreachable { bgp_path.prepend(64510)",
            "203.0.113.0/24 unreachable { bgp_path.prepend(64511)",
        );
        let change = feed.change("203.0.113.0/24").await;
        assert_eq!(change.old.unwrap().as_path, path(&[64501, 64510]));
        assert_eq!(change.new.unwrap().as_path, path(&[64501, 64511]));
        assert_eq!(change.peers.len(), 1);
        bird.reconfigure("bgp_next_hop = 192.0.2.1", "bgp_next_hop = 192.0.2.9");
        let change = feed.change("203.0.113.0/24").await;
        assert_eq!(change.old.unwrap().next_hop, ip("192.0.2.1"));
        assert_eq!(change.new.unwrap().next_hop, ip("192.0.2.9"));

        // Killed: stale, nothing withdrawn.
        bird.kill();
        assert!(matches!(
            feed.down().await,
            SessionDownReason::ConnectionLost { .. }
        ));
        for peer in [PEER, PEER6] {
            let fact = feed.until_fact(peer, true).await;
            assert!(fact.route.is_some(), "{peer}");
        }
        let all = feed.handle.rib(RibQuery::All, 100).await;
        assert_eq!(all.len(), 5);
        assert!(all.iter().all(|route| route.stale));
        assert!(feed.status().await.stale);

        // Back with one route less: that one is withdrawn at End-of-RIB, the others are fresh.
        bird.edit("  route 203.0.113.128/25", "  # route 203.0.113.128/25");
        bird.restart();
        feed.up().await;
        let change = feed.change("203.0.113.128/25").await;
        assert_eq!(change.new, None);
        let fact = feed.until_fact(PEER, false).await;
        assert_eq!(fact.route.unwrap().prefix.to_string(), "203.0.113.0/24");
        let all = feed.handle.rib(RibQuery::All, 100).await;
        assert!(
            all.iter()
                .filter(|r| r.route.prefix.addr().is_ipv4())
                .all(|r| !r.stale)
        );

        // The operator of the router shuts it down.
        bird.control("disable feed");
        let reason = feed.down().await;
        let shutdown = SessionDownReason::NotificationReceived {
            code: 6,
            subcode: 2,
            text: None,
        };
        assert_eq!(reason, shutdown);
        feed.handle.stop().await;
    });
}

#[test]
fn ebgp_over_ipv6_with_ipv6_next_hops_for_ipv4() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED6, ROUTER6, 4_200_000_000));
        feed.handle.watch(vec![ip(PEER), ip(PEER6)]);
        let _bird = start(&Session {
            local: ROUTER6,
            local_as: 4_200_000_000,
            ipv4: "export all; extended next hop yes; next hop address 2001:db8::4;",
            ..session(&feed)
        });
        assert_eq!(
            feed.up().await,
            (NeighborId::session(ip(ROUTER6)), Asn(4_200_000_000))
        );
        feed.complete().await;
        let found = feed.handle.rib(RibQuery::Address(ip(PEER)), 10).await;
        assert_eq!(found[0].route.as_path, path(&[4_200_000_000, 64503, 64520]));
        assert_eq!(found[0].route.next_hop, ip("2001:db8::4"));
        let found = feed.handle.rib(RibQuery::Address(ip(PEER6)), 10).await;
        assert_eq!(found[0].route.as_path, path(&[4_200_000_000, 64501, 64510]));
        assert_eq!(found[0].route.next_hop, ip("2001:db8::1"));
        feed.handle.stop().await;
    });
}

#[test]
fn a_wrong_as_is_refused_with_both_numbers_and_the_feed_goes_on() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, 64500));
        let mut bird = start(&Session {
            local_as: 64999,
            ..session(&feed)
        });
        let error = feed.error_with("AS64999").await;
        assert!(
            error.contains("configuration says AS64500") && error.contains("2/2"),
            "{error}"
        );
        assert!(feed.try_next().is_none(), "there was no session");
        bird.reconfigure("as 64999", "as 64500");
        assert_eq!(feed.up().await.1, Asn(64500));
        feed.handle.stop().await;
    });
}

#[test]
fn a_hold_time_of_3_s_is_kept() {
    namespace::run(|| async {
        let mut short = settings(FEED, ROUTER, LOCAL_AS);
        short.hold_time = Duration::from_secs(3);
        let mut feed = Feed::start(short);
        let bird = start(&session(&feed));
        feed.up().await;
        tokio::time::sleep(Duration::from_secs(11)).await;
        let status = feed.status().await;
        assert_eq!(status.hold_time, Some(Duration::from_secs(3)));
        assert!(status.uptime.unwrap() > Duration::from_secs(10));
        while let Some(signal) = feed.try_next() {
            assert!(
                !matches!(signal, BgpSignal::SessionDown { .. }),
                "{signal:?}"
            );
        }
        assert!(bird.control("show protocols feed").contains("Established"));
        feed.handle.stop().await;
    });
}

#[test]
fn the_feed_connects_where_the_router_waits() {
    namespace::run(|| async {
        let mut active = settings(FEED, ROUTER, LOCAL_AS);
        active.neighbors[0].passive = false;
        let mut feed = Feed::start(active);
        let _bird = start(&Session {
            options: "passive yes;",
            ..session(&feed)
        });
        feed.up().await;
        feed.complete().await;
        assert_eq!(feed.status().await.ipv4_prefixes, 4);
        feed.handle.stop().await;
    });
}

#[test]
fn when_both_connect_one_session_stays() {
    namespace::run(|| async {
        let mut active = settings(FEED, ROUTER, LOCAL_AS);
        active.neighbors[0].passive = false;
        let mut feed = Feed::start(active);
        let bird = start(&session(&feed));
        feed.up().await;
        feed.complete().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        while let Some(signal) = feed.try_next() {
            assert!(
                !matches!(signal, BgpSignal::SessionDown { .. }),
                "{signal:?}"
            );
        }
        assert_eq!(feed.status().await.state, State::Established);
        assert!(bird.control("show protocols feed").contains("Established"));
        feed.handle.stop().await;
    });
}

#[test]
fn too_many_prefixes_stop_the_session() {
    namespace::run(|| async {
        let mut few = settings(FEED, ROUTER, LOCAL_AS);
        few.neighbors[0].peer.max_prefixes = 3;
        let mut feed = Feed::start(few);
        let _bird = start(&session(&feed));
        feed.up().await;
        let reason = feed.down().await;
        let SessionDownReason::NotificationSent {
            code: 6,
            subcode: 1,
            text,
        } = reason
        else {
            panic!("{reason:?}");
        };
        assert!(text.contains("more than 3 Ipv4 prefixes"), "{text}");
        let status = feed.status().await;
        assert!(status.stale && status.ipv4_prefixes == 3);
        feed.handle.stop().await;
    });
}

#[test]
fn stopping_tells_the_router_that_it_is_administrative() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        let bird = start(&session(&feed));
        feed.up().await;
        let address = feed.address();
        let Feed {
            handle,
            mut signals,
        } = feed;
        handle.stop().await;
        let mut last = None;
        while let Some(signal) = signals.recv().await {
            last = Some(signal);
        }
        assert!(matches!(
            last,
            Some(BgpSignal::SessionDown {
                reason: SessionDownReason::Administrative,
                ..
            })
        ));
        let details = bird.control("show protocols all feed");
        assert!(details.contains("Administrative shutdown"), "{details}");
        assert!(
            std::net::TcpStream::connect(address).is_err(),
            "still listening"
        );
    });
}
