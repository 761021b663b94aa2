//! Neighbours that do not read, and tables that do not fit.

use std::time::{Duration, Instant};

use bgp_core::{Families, Family, MessageType, Open, RefreshKind, RouteRefresh, encode};
use bgp_feed::{HistoryLimits, NoRefresh, RibLimits};
use events::{NeighborId, SessionDownReason};
use tokio::net::TcpSocket;
use tokio::time::sleep;

use crate::feed::{Feed, LOCAL_AS, ip, settings};
use crate::namespace::{self, FEED, ROUTER};
use crate::raw::{Raw, open};

const IPV4: Families = Families {
    ipv4: true,
    ipv6: false,
};

fn marks_refreshes() -> Vec<u8> {
    Open {
        enhanced_route_refresh: true,
        ..open(LOCAL_AS)
    }
    .encode()
}

/// RFC 9687: it sends, so its hold timer is content, but takes nothing.
#[test]
fn a_neighbour_that_takes_nothing_is_dropped_by_the_send_hold_timer() {
    namespace::run(|| async {
        let mut short = settings(FEED, ROUTER, LOCAL_AS);
        short.hold_time = Duration::from_secs(9);
        short.send_hold = Some(Duration::from_secs(4));
        let mut feed = Feed::start(short);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let mut peer = Raw::connect_by(socket, ROUTER, feed.address()).await;
        peer.greet(&marks_refreshes()).await;
        feed.up().await;
        // Each is answered with two messages, which nobody reads.
        let request = RouteRefresh::encode(Family::Ipv4, RefreshKind::Request);
        peer.send(&request.repeat(400)).await;
        let began = Instant::now();
        let ends = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                peer.keepalive().await;
            }
        };
        let reason = tokio::select! {
            reason = feed.down() => reason,
            () = ends => unreachable!(),
        };
        let SessionDownReason::NotificationSent { code, .. } = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(code, 8, "Send Hold Timer Expired");
        let took = began.elapsed();
        assert!(took > Duration::from_secs(3), "{took:?}");
        feed.handle.stop().await;
    });
}

/// Many routes that nobody asked for: with AS_PATH, next hop and a community of their own.
fn update(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, 6, 2, 1, 0, 0, 0xfb, 0xf4],
        &[0x40, 3, 4, 192, 0, 2, 1],
        &[0x40, 5, 4, 0, 0, 0, 100],
        &[0xc0, 8, 4, 0, 1, high, low],
    ]
    .concat();
    let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    let body = [&[0, 0][..], &length, &attributes, &[24, 10, high, low]].concat();
    encode(MessageType::Update, &body)
}

fn withdrawal(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    encode(MessageType::Update, &[0, 4, 24, 10, high, low, 0, 0])
}

/// A table that is too large is partial; when there is memory again the neighbour is asked for its
/// routes, and the table is whole.
#[test]
fn a_table_that_did_not_fit_is_asked_for_when_it_does() {
    namespace::run(|| async {
        let mut small = settings(FEED, ROUTER, LOCAL_AS);
        small.neighbors[0].peer.max_prefixes = 100_000;
        small.rib = RibLimits {
            memory: Some(400_000),
            history: HistoryLimits {
                bytes: 0,
                age: Duration::ZERO,
            },
        };
        let mut feed = Feed::start(small);
        let mut peer = Raw::establish_with(ROUTER, feed.address(), &marks_refreshes()).await;
        feed.up().await;
        let many: Vec<u8> = (0..20_000).flat_map(update).collect();
        peer.send(&many).await;
        peer.send(&encode(MessageType::Update, &[0; 4])).await;
        let partial = |wanted: bool| {
            let handle = &feed.handle;
            async move {
                let end = Instant::now() + Duration::from_secs(40);
                loop {
                    let status = handle.neighbors().await.swap_remove(0);
                    if status.partial == wanted {
                        return status;
                    }
                    assert!(Instant::now() < end, "{status:?}");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let status = partial(true).await;
        assert!(status.ipv4_prefixes < 20_000, "{status:?}");
        let rib = feed.handle.rib_status().await.unwrap();
        assert!(rib.partial == 1 && rib.memory.short, "{rib:?}");

        let few: Vec<u8> = (0..20_000).flat_map(withdrawal).collect();
        peer.send(&few).await;
        // In ten seconds or so it is asked.
        let request = loop {
            let frame = peer.next_but_keepalive().await;
            if frame.kind == MessageType::RouteRefresh {
                break frame.body;
            }
        };
        assert_eq!(request[..], [0, 1, 0, 1], "IPv4 unicast");
        let mark = |kind| RouteRefresh::encode(Family::Ipv4, kind);
        let answer = [mark(RefreshKind::Begin), update(1), mark(RefreshKind::End)];
        peer.send(&answer.concat()).await;
        let status = partial(false).await;
        assert_eq!(status.ipv4_prefixes, 1);
        feed.handle.stop().await;
    });
}

#[test]
fn an_operator_asks_for_routes() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        let id = NeighborId::session(ip(ROUTER));
        let other = NeighborId::session(ip(FEED));
        let ask = async |id, families| feed.handle.refresh(id, families).await;
        assert_eq!(ask(other, IPV4).await, Err(NoRefresh::Unknown));
        assert_eq!(ask(id, IPV4).await, Err(NoRefresh::NoSession));
        let deaf = Open {
            route_refresh: false,
            ..open(LOCAL_AS)
        };
        let peer = Raw::establish_with(ROUTER, feed.address(), &deaf.encode()).await;
        feed.up().await;
        let ask = async |id, families| feed.handle.refresh(id, families).await;
        assert_eq!(ask(id, IPV4).await, Err(NoRefresh::Incapable));
        drop(peer);
        feed.down().await;
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        let ask = async |id, families| feed.handle.refresh(id, families).await;
        assert_eq!(ask(id, Families::BOTH).await, Ok(Families::BOTH));
        for body in [[0, 1, 0, 1], [0, 2, 0, 1]] {
            let frame = peer.next_but_keepalive().await;
            assert_eq!(frame.kind, MessageType::RouteRefresh);
            assert_eq!(frame.body[..], body);
        }
        feed.handle.stop().await;
    });
}
