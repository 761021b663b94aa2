//! Peers that break the rules, and slow receivers.

use std::io::Write;
use std::time::Duration;

use bgp_core::{Families, GracefulRestart, MessageType, encode};
use bgp_feed::StartError;
use events::{Asn, BgpSignal, RibQuery, SessionDownReason};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::feed::{Feed, LOCAL_AS, ip, settings};
use crate::namespace::{self, FEED, ROUTER, STRANGER};
use crate::raw::{Raw, open};

/// UPDATE: 203.0.113.0/24 with AS_PATH `asn` and next hop 192.0.2.1.
fn update(asn: u32) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 20];
    body.extend([0x40, 1, 1, 0]);
    body.extend([0x40, 2, 6, 2, 1]);
    body.extend(asn.to_be_bytes());
    body.extend([0x40, 3, 4, 192, 0, 2, 1]);
    body.extend([24, 203, 0, 113]);
    encode(MessageType::Update, &body)
}

#[test]
fn broken_messages_end_their_session_only() {
    // Name, what is sent once Established, NOTIFICATION.
    let mut truncated = update(1);
    truncated[18 + 4] = 200;
    let cases: Vec<(&str, Vec<u8>, (u8, u8))> = vec![
        ("UPDATE whose attributes exceed it", truncated, (3, 1)),
        (
            "NLRI cut off",
            encode(MessageType::Update, &[0, 0, 0, 0, 24, 10]),
            (3, 10),
        ),
        ("marker", vec![0; 19], (1, 1)),
        (
            "KEEPALIVE of 20 bytes",
            {
                let mut bytes = vec![0xff; 16];
                bytes.extend([0, 20, 4, 0]);
                bytes
            },
            (1, 2),
        ),
        ("OPEN again", open(LOCAL_AS).encode(), (5, 3)),
    ];
    namespace::run(|| async move {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        for (name, bytes, notification) in cases {
            let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
            feed.up().await;
            peer.send(&bytes).await;
            assert_eq!(peer.notification().await, notification, "{name}");
            let SessionDownReason::NotificationSent { code, subcode, .. } = feed.down().await
            else {
                panic!("{name}");
            };
            assert_eq!((code, subcode), notification, "{name}");
        }
        // Half a message and then nothing but the end of the connection.
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        peer.send(&update(1)[..30]).await;
        drop(peer);
        assert!(matches!(
            feed.down().await,
            SessionDownReason::ConnectionLost { .. }
        ));
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        peer.send(&update(64501)).await;
        while feed.handle.rib(RibQuery::All, 9).await.len() != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        feed.handle.stop().await;
        assert_eq!(peer.notification().await, (6, 2));
    });
}

#[test]
fn a_silent_peer_is_dropped_by_the_hold_timer() {
    namespace::run(|| async {
        let mut short = settings(FEED, ROUTER, LOCAL_AS);
        short.hold_time = Duration::from_secs(3);
        let mut feed = Feed::start(short);
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        assert_eq!(peer.notification().await, (4, 0));
        assert_eq!(feed.down().await, SessionDownReason::HoldTimerExpired);
        feed.handle.stop().await;
    });
}

#[test]
fn strangers_are_closed_and_counted() {
    namespace::run(|| async {
        let feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        for _ in 0..3 {
            let mut peer = Raw::connect(STRANGER, feed.address()).await;
            assert_eq!(peer.next().await, None);
        }
        assert_eq!(feed.handle.refused_strangers(), 3);
        feed.handle.stop().await;
    });
}

/// RFC 5082: what comes from farther away gets no answer, not even to its handshake. What was sent
/// before the connection is accepted would be read otherwise.
#[test]
fn who_is_too_far_away_gets_no_connection() {
    namespace::run(|| async {
        let mut near = settings(FEED, ROUTER, LOCAL_AS);
        near.neighbors[0].peer.ttl_security = Some(1);
        let mut feed = Feed::start(near);
        let socket = |ttl| {
            let socket = TcpSocket::new_v4().unwrap();
            socket2::SockRef::from(&socket).set_ttl_v4(ttl).unwrap();
            socket
        };
        let far = socket(254);
        far.bind((ip(ROUTER), 0).into()).unwrap();
        let answer = timeout(Duration::from_secs(2), far.connect(feed.address())).await;
        assert!(answer.is_err(), "{answer:?}");
        let mut peer = Raw::connect_by(socket(255), ROUTER, feed.address()).await;
        peer.greet(&open(LOCAL_AS).encode()).await;
        feed.up().await;
        feed.handle.stop().await;
    });
}

#[test]
fn a_second_connection_replaces_the_first_only_after_graceful_restart_was_agreed() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        let mut restarts = open(LOCAL_AS);
        restarts.graceful_restart = Some(GracefulRestart {
            time: 60,
            families: Families::BOTH,
            ..GracefulRestart::default()
        });
        let restarts = restarts.encode();
        let mut first = Raw::establish_with(ROUTER, feed.address(), &restarts).await;
        feed.up().await;
        let mut second = Raw::establish_with(ROUTER, feed.address(), &restarts).await;
        assert!(matches!(
            feed.down().await,
            SessionDownReason::ConnectionLost { .. }
        ));
        feed.up().await;
        while let Some(frame) = first.next().await {
            assert_ne!(frame.kind, MessageType::Notification);
        }
        // Nor is it agreed where the capability names no family (RFC 4724 section 5): such a
        // neighbour sends End-of-RIB, and that is all.
        let aware = open(LOCAL_AS).encode();
        // Version 4, the AS through capability 65, and no graceful restart.
        let mut open = vec![4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 1, 8, 2, 6, 65, 4];
        open.extend(LOCAL_AS.to_be_bytes());
        let open = encode(MessageType::Open, &open);
        for open in [aware, open] {
            second
                .send(&encode(MessageType::Notification, &[6, 2]))
                .await;
            feed.down().await;
            second = Raw::establish_with(ROUTER, feed.address(), &open).await;
            feed.up().await;
            let mut other = Raw::connect(ROUTER, feed.address()).await;
            assert_eq!(other.notification().await, (6, 5));
            second.keepalive().await;
        }
        feed.handle.stop().await;
        assert_eq!(second.notification().await, (6, 2));
    });
}

/// More changes than all queues hold together, and nobody takes them.
#[test]
fn a_full_sink_delays_signals_and_loses_neither_them_nor_the_session() {
    const CHANGES: u32 = 40_000;
    namespace::run(|| async {
        let mut short = settings(FEED, ROUTER, LOCAL_AS);
        short.hold_time = Duration::from_secs(3);
        let mut feed = Feed::with_sink(short, 1);
        feed.handle.watch(vec![ip("203.0.113.7")]);
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        let sender = tokio::spawn(async move {
            for chunk in (1..=CHANGES).collect::<Vec<_>>().chunks(100) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|asn| update(*asn)).collect();
                peer.send(&bytes).await;
            }
            loop {
                peer.keepalive().await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        tokio::time::sleep(Duration::from_secs(7)).await;
        let status = feed.status().await;
        assert!(status.uptime.is_some(), "{status:?}");
        assert!(
            status.counters.updates < u64::from(CHANGES),
            "the queues were not full"
        );
        let mut next = 1;
        while next <= CHANGES {
            if let BgpSignal::Change(change) = feed.next().await {
                assert_eq!(change.new.unwrap().as_path, [Asn(next)]);
                next += 1;
            }
        }
        let fact = feed.fact("203.0.113.7").await;
        assert_eq!(fact.route.unwrap().as_path, [Asn(CHANGES)]);
        assert!(feed.status().await.uptime.unwrap() > Duration::from_secs(7));
        sender.abort();
        feed.handle.stop().await;
    });
}

#[test]
fn an_address_in_use_is_named_with_the_remedy() {
    namespace::run(|| async {
        let feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        let mut again = settings(FEED, ROUTER, LOCAL_AS);
        again.listen = vec![feed.address()];
        let (sink, _signals) = mpsc::channel(1);
        let error = bgp_feed::spawn(again, sink).unwrap_err();
        assert!(matches!(error, StartError::Listen { .. }));
        let text = error.to_string();
        assert!(text.contains(&feed.address().to_string()), "{text}");
        assert!(text.contains("another process listens there"), "{text}");
        feed.handle.stop().await;
    });
}

/// As if the process had been stopped: KEEPALIVEs came in time, nobody read them in time.
#[test]
fn a_process_that_stood_still_does_not_blame_the_neighbour() {
    namespace::run(|| async {
        let mut short = settings(FEED, ROUTER, LOCAL_AS);
        short.hold_time = Duration::from_secs(3);
        let mut feed = Feed::start(short);
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        peer.keepalive().await;
        let mut stream = peer.into_std();
        let sender = std::thread::spawn(move || {
            for _ in 0..14 {
                std::thread::sleep(Duration::from_millis(500));
                stream
                    .write_all(&encode(MessageType::Keepalive, &[]))
                    .unwrap();
            }
            stream
        });
        // The runtime has this thread only: nothing of the feed runs meanwhile.
        std::thread::sleep(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(feed.try_next().is_none(), "the session was lost");
        assert!(feed.status().await.uptime.unwrap() > Duration::from_secs(5));
        drop(sender.join());
        feed.handle.stop().await;
    });
}

#[test]
fn treat_as_withdraw_really_withdraws_and_is_counted() {
    namespace::run(|| async {
        let mut feed = Feed::start(settings(FEED, ROUTER, LOCAL_AS));
        feed.handle.watch(vec![ip("203.0.113.7")]);
        let mut peer = Raw::establish(ROUTER, feed.address(), LOCAL_AS).await;
        feed.up().await;
        peer.send(&update(64501)).await;
        assert!(feed.change("203.0.113.0/24").await.new.is_some());
        let mut bad = update(64501);
        // ORIGIN's value: behind header, two lengths and the attribute's own header.
        bad[19 + 4 + 3] = 9;
        peer.send(&bad).await;
        assert_eq!(feed.change("203.0.113.0/24").await.new, None);
        let status = feed.status().await;
        let withdrawn = status.counters.treated_as_withdraw;
        assert_eq!((withdrawn, status.ipv4_prefixes), (1, 0));
        assert!(status.uptime.is_some());
        // Dropping the handle stops the feed as well.
        drop(feed);
        assert_eq!(peer.notification().await, (6, 2));
    });
}
