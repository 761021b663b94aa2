//! Routers that break the rules.

use bgp_core::{Families, MessageType, Open, encode};
use events::{Asn, BgpSignal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::feed::{Feed, LIMIT, ip, router};
use crate::namespace::{self, FEED, ROUTER, STRANGER};

fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
    [&[3][..], &length, &[kind], &body].concat()
}

/// Peer 10.0.0.1 of AS 65002, in one of the tables.
fn peer(flags: u8) -> Vec<u8> {
    [
        &[0, flags][..],
        &[0; 20],
        &[10, 0, 0, 1, 0, 0, 0xfd, 0xea, 10, 0, 0, 1],
        &[0; 8],
    ]
    .concat()
}

fn peer_up(add_path: bool) -> Vec<u8> {
    let families = Families {
        ipv4: add_path,
        ipv6: false,
    };
    let open = |asn: u32| {
        Open {
            four_octet_as: true,
            add_path_receive: families,
            add_path_send: families,
            families: Families::BOTH,
            ..Open::new(Asn(asn), 90, "10.0.0.9".parse().unwrap())
        }
        .encode()
    };
    let ends = [&[0; 12][..], &[10, 0, 0, 9, 0, 179, 0xc0, 1]].concat();
    message(3, &[&peer(0), &ends, &open(65001), &open(65002)])
}

fn monitoring(flags: u8, nlri: &[u8]) -> Vec<u8> {
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xea],
        &[0x40, 3, 4, 10, 0, 0, 1],
    ]
    .concat();
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    let body = [&[0, 0][..], &length, &attributes, nlri].concat();
    message(0, &[&peer(flags), &encode(MessageType::Update, &body)])
}

/// A Statistics Report with one figure: routes in Adj-RIB-In.
fn report(routes: u8) -> Vec<u8> {
    let figure = [0, 0, 0, 1, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, routes];
    message(1, &[&peer(0), &figure])
}

/// The newest figures of each peer are there for those who ask, while the peer is up.
#[test]
fn statistics_of_peers() {
    namespace::run(|| async {
        let feed = Feed::bmp(vec![router(ROUTER, "a")]);
        let mut stream = connect(&feed, ROUTER).await;
        let bytes = [peer_up(false), report(5), report(7)].concat();
        stream.write_all(&bytes).await.unwrap();
        let status = feed
            .router(0, |router| {
                let newest = router.statistics.first();
                newest.is_some_and(|peer| peer.figures[0].value == 7)
            })
            .await;
        let [told] = &status.statistics[..] else {
            panic!("{status:#?}");
        };
        assert_eq!((told.address, told.asn.0), (ip("10.0.0.1"), 65002));
        assert_eq!(told.figures.len(), 1);
        assert_eq!(told.figures[0].name(), Some("routes in Adj-RIB-In"));
        stream
            .write_all(&message(2, &[&peer(0), &[4]]))
            .await
            .unwrap();
        feed.router(0, |router| router.statistics.is_empty()).await;
        feed.handle.stop().await;
    });
}

fn end_of_rib(flags: u8) -> Vec<u8> {
    message(0, &[&peer(flags), &encode(MessageType::Update, &[0; 4])])
}

const TEN: &[u8] = &[8, 10];

async fn connect(feed: &Feed, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip(from), 0).into()).unwrap();
    socket
        .connect(feed.handle.bmp_listening()[0])
        .await
        .unwrap()
}

/// The other side closes the connection.
async fn closed(stream: &mut TcpStream) {
    let read = timeout(LIMIT, stream.read(&mut [0; 16]))
        .await
        .expect("no end");
    assert!(!matches!(read, Ok(1..)), "a station says nothing");
}

#[test]
fn what_cannot_be_read_ends_that_routers_connection_only() {
    namespace::run(|| async {
        let mut feed = Feed::bmp(vec![router(ROUTER, "a"), router(FEED, "b")]);
        let mut stranger = connect(&feed, STRANGER).await;
        closed(&mut stranger).await;

        let mut good = connect(&feed, FEED).await;
        good.write_all(&[peer_up(false), monitoring(0, TEN)].concat())
            .await
            .unwrap();
        feed.up("10.0.0.1@bmp:198.51.100.10/in-pre").await;
        let cases: [(&str, Vec<u8>); 5] = [
            ("version 2", vec![2, 0, 0, 0, 6, 4]),
            ("a length of gigabytes", vec![3, 0xff, 0, 0, 0, 4]),
            ("a per-peer header that is cut off", message(0, &[&[0; 20]])),
            ("a peer type that is unknown", message(0, &[&[9; 42]])),
            ("a TLV that is cut off", message(4, &[&[0, 2, 0, 9, 1]])),
        ];
        for (name, bytes) in cases {
            let mut bad = connect(&feed, ROUTER).await;
            bad.write_all(&[peer_up(false), monitoring(0, TEN), bytes].concat())
                .await
                .unwrap();
            closed(&mut bad).await;
            let reason = feed.down("10.0.0.1@bmp:192.0.2.1/in-pre").await;
            assert!(reason.contains("cannot be read"), "{name}: {reason}");
        }
        let routes = feed.routes("10.1.1.1", |routes| routes.len() == 2).await;
        let said: Vec<_> = routes
            .iter()
            .map(|route| (route.egress.to_string(), route.stale))
            .collect();
        assert_eq!(said, [("a".to_owned(), true), ("b".to_owned(), false)]);
        good.write_all(&monitoring(0, &[8, 11])).await.unwrap();
        feed.routes("11.1.1.1", |routes| routes.len() == 1).await;
        feed.handle.stop().await;
    });
}

#[test]
fn an_update_that_cannot_be_read_ends_its_table_only() {
    namespace::run(|| async {
        let mut feed = Feed::bmp(vec![router(ROUTER, "a")]);
        let mut router = connect(&feed, ROUTER).await;
        let unreadable = monitoring(0, &[33, 1, 2, 3, 4, 5]);
        let bytes = [
            peer_up(false),
            monitoring(0, TEN),
            monitoring(0x40, TEN),
            unreadable,
            monitoring(0, &[8, 11]),
            monitoring(0x40, &[8, 11]),
        ];
        router.write_all(&bytes.concat()).await.unwrap();
        let reason = feed.down("10.0.0.1@bmp:192.0.2.1/in-pre").await;
        assert!(reason.contains("prefix length 33"), "{reason}");
        let routes = feed.routes("11.1.1.1", |routes| !routes.is_empty()).await;
        assert_eq!(routes.len(), 1, "{routes:?}");
        assert_eq!(
            routes[0].neighbor.to_string(),
            "10.0.0.1@bmp:192.0.2.1/in-post"
        );
        let stale = feed.routes("10.1.1.1", |routes| routes.len() == 2).await;
        assert_eq!([true, false], [stale[0].stale, stale[1].stale]);
        let status = feed.router(0, |status| status.refused == 1).await;
        assert!(status.connected);
        feed.handle.stop().await;
    });
}

/// Path identifiers are there as the OPENs say; a router that restarts tells its tables anew.
#[test]
fn add_path_is_what_the_opens_say_and_a_restart_sorts_out() {
    namespace::run(|| async {
        let mut feed = Feed::bmp(vec![router(ROUTER, "a")]);
        let mut first = connect(&feed, ROUTER).await;
        let with_id = [&[0, 0, 0, 7][..], TEN, &[0, 0, 0, 7, 8, 11]].concat();
        let bytes = [peer_up(true), monitoring(0, &with_id), end_of_rib(0)].concat();
        first.write_all(&bytes).await.unwrap();
        feed.routes("11.1.1.1", |routes| routes.len() == 1).await;
        feed.routes("10.1.1.1", |routes| routes.len() == 1).await;

        // It restarted; the old connection was not closed.
        let mut second = connect(&feed, ROUTER).await;
        feed.down("10.0.0.1@bmp:192.0.2.1/in-pre").await;
        closed(&mut first).await;
        let bytes = [peer_up(false), monitoring(0, TEN)].concat();
        second.write_all(&bytes).await.unwrap();
        feed.routes("10.1.1.1", |routes| routes.len() == 1 && !routes[0].stale)
            .await;
        let old = feed.routes("11.1.1.1", |routes| routes.len() == 1).await;
        assert!(old[0].stale, "not told again yet");
        second.write_all(&end_of_rib(0)).await.unwrap();
        feed.routes("11.1.1.1", <[_]>::is_empty).await;
        let status = feed
            .router(0, |status| status.tables[0].table.ipv4 == 1)
            .await;
        assert!(status.connected && status.tables[0].up, "{status:?}");
        feed.handle.stop().await;
    });
}

/// The router's Loc-RIB, as RFC 9069 section 4 has it.
fn loc(kind: u8, body: &[u8]) -> Vec<u8> {
    let peer = [
        &[3, 0][..],
        &[0; 24],
        &[0, 0, 0xfd, 0xe9, 192, 0, 2, 1],
        &[0; 8],
    ];
    message(kind, &[&peer.concat(), body])
}

fn loc_up() -> Vec<u8> {
    let open = Open {
        four_octet_as: true,
        families: Families::BOTH,
        ..Open::new(Asn(65001), 90, "192.0.2.1".parse().unwrap())
    };
    let open = open.encode();
    loc(3, &[&[0; 20][..], &open, &open].concat())
}

fn loc_route(nlri: &[u8]) -> Vec<u8> {
    // The per-peer header of another table is 42 octets behind 6 of the common header.
    loc(0, &monitoring(0, nlri)[48..])
}

/// Of the tables that a router tells of one egress the signals of one go on: Loc-RIB, else after
/// policy, else before. The RIB has them all.
#[test]
fn one_view_of_an_egress_counts() {
    namespace::run(|| async {
        let mut feed = Feed::bmp(vec![router(ROUTER, "a")]);
        feed.handle.watch(vec![ip("10.1.1.1")]);
        let [pre, post, all] = [
            "10.0.0.1@bmp:192.0.2.1/in-pre",
            "10.0.0.1@bmp:192.0.2.1/in-post",
            "192.0.2.1@bmp:192.0.2.1/loc",
        ];
        let mut router = connect(&feed, ROUTER).await;
        let told = async |feed: &mut Feed| {
            feed.until(|signal| match signal {
                BgpSignal::Fact(fact) if !fact.stale => {
                    let prefix = fact.route?.prefix.to_string();
                    Some((fact.neighbor.to_string(), prefix))
                }
                BgpSignal::Change(change) => {
                    let prefix = change.prefix.to_string();
                    Some((change.neighbor.to_string(), prefix))
                }
                _ => None,
            })
            .await
        };
        let said = |who: &str, prefix: &str| (who.to_owned(), prefix.to_owned());
        router
            .write_all(&[peer_up(false), monitoring(0, TEN)].concat())
            .await
            .unwrap();
        for _change_and_fact in 0..2 {
            assert_eq!(told(&mut feed).await, said(pre, "10.0.0.0/8"));
        }
        router.write_all(&monitoring(0x40, TEN)).await.unwrap();
        for _change_and_fact in 0..2 {
            assert_eq!(told(&mut feed).await, said(post, "10.0.0.0/8"));
        }
        let more_specific = &[16, 10, 1];
        let bytes = [
            loc_up(),
            loc_route(TEN),
            monitoring(0, more_specific),
            monitoring(0x40, more_specific),
            loc_route(more_specific),
        ];
        router.write_all(&bytes.concat()).await.unwrap();
        let mut facts = Vec::new();
        while facts.last() != Some(&said(all, "10.1.0.0/16")) {
            facts.push(told(&mut feed).await);
        }
        assert!(facts.iter().all(|(who, _)| who == all), "{facts:?}");
        feed.routes("10.1.1.1", |routes| routes.len() == 3).await;
        // Without Loc-RIB what is known after policy counts, and is told.
        router.write_all(&loc(2, &[6])).await.unwrap();
        feed.down(all).await;
        assert_eq!(told(&mut feed).await, said(post, "10.1.0.0/16"));
        feed.handle.stop().await;
    });
}
