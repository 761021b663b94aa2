//! Handshakes, ends, peers and bounds.
#![allow(clippy::unwrap_used)]

mod common;

use common::{PEER, World, at, change, event, ms, owner, sample};
use events::{
    AliveSign, ConnectFailure, ConnectionId, RetransmitClass, SignalKind, TcpEventKind, TcpState,
};
use tracker::{Params, PeerState};

const ID: ConnectionId = ConnectionId(1);

fn source() -> std::net::IpAddr {
    "198.51.100.10".parse().unwrap()
}

#[test]
fn a_handshake_fails_by_its_cause() {
    let causes = [
        (Some(111), ConnectFailure::Refused),
        (Some(110), ConnectFailure::TimedOut),
        (Some(113), ConnectFailure::Unreachable),
        (Some(101), ConnectFailure::Unreachable),
        (Some(104), ConnectFailure::Reset),
        (None, ConnectFailure::Cancelled),
        (Some(103), ConnectFailure::Other(103)),
    ];
    let mut world = World::new(Params::default());
    for (n, (error, cause)) in (0..).zip(causes) {
        assert_eq!(
            world.event(10, n, change(TcpState::Closed, TcpState::SynSent, None)),
            []
        );
        assert_eq!(world.tracker.peers(at(10))[0].state, PeerState::Opening);
        let told = world.event(20, n, change(TcpState::SynSent, TcpState::Closed, error));
        assert_eq!(told, [SignalKind::ConnectFailed { cause }]);
    }
    let status = &world.tracker.peers(at(20))[0];
    assert_eq!(status.state, PeerState::Down);
    let f = status.connect_failures;
    let counts = [
        f.refused,
        f.timed_out,
        f.unreachable,
        f.reset,
        f.cancelled,
        f.other,
    ];
    assert_eq!(counts, [1, 1, 2, 1, 1, 1]);
}

#[test]
fn a_failure_counts_though_its_start_was_missed() {
    let mut world = World::new(Params::default());
    let told = world.event(
        20,
        1,
        change(TcpState::SynSent, TcpState::Closed, Some(110)),
    );
    let cause = ConnectFailure::TimedOut;
    assert_eq!(told, [SignalKind::ConnectFailed { cause }]);
}

#[test]
fn a_socket_that_failed_can_connect_again() {
    let mut world = World::new(Params::default());
    world.event(10, 1, change(TcpState::Closed, TcpState::SynSent, None));
    world.event(
        20,
        1,
        change(TcpState::SynSent, TcpState::Closed, Some(111)),
    );
    world.event(30, 1, change(TcpState::Closed, TcpState::SynSent, None));
    let up = world.event(
        40,
        1,
        change(TcpState::SynSent, TcpState::Established, None),
    );
    assert_eq!(up.len(), 2);
    assert_eq!(
        world.timeout(5000),
        [],
        "the old end does not take the new connection away"
    );
    assert_eq!(world.tracker.peers(at(5000))[0].connections, 1);
}

#[test]
fn a_peer_is_up_from_its_first_connection_to_its_last() {
    let mut world = World::established(Params::default());
    let two = ConnectionId(2);
    let told = world.event(
        1100,
        2,
        change(TcpState::SynReceived, TcpState::Established, None),
    );
    assert_eq!(
        told,
        [SignalKind::ConnectionUp {
            connection: two,
            source: source()
        }]
    );
    let told = world.event(
        1200,
        1,
        change(TcpState::Established, TcpState::Closed, Some(110)),
    );
    assert_eq!(
        told,
        [SignalKind::ConnectionDown {
            connection: ID,
            error: Some(110)
        }]
    );
    let told = world.event(1300, 2, TcpEventKind::Gone);
    let down = SignalKind::ConnectionDown {
        connection: two,
        error: None,
    };
    assert_eq!(told, [down, SignalKind::PeerDown]);
    assert_eq!(world.event(1301, 2, TcpEventKind::Gone), []);
    assert_eq!(world.tracker.peers(at(1301))[0].state, PeerState::Down);
}

#[test]
fn the_peers_fin_and_rst_are_signs_of_life() {
    let mut world = World::established(Params::default());
    let closed = SignalKind::Alive {
        connection: ID,
        sign: AliveSign::Closed,
    };
    let told = world.event(
        1100,
        1,
        change(TcpState::Established, TcpState::CloseWait, None),
    );
    assert_eq!(told, std::slice::from_ref(&closed));
    assert_eq!(
        world.event(
            1110,
            1,
            change(TcpState::CloseWait, TcpState::LastAck, None)
        ),
        []
    );
    let told = world.event(1120, 1, change(TcpState::LastAck, TcpState::Closed, None));
    assert_eq!(
        told,
        [
            SignalKind::ConnectionDown {
                connection: ID,
                error: None
            },
            SignalKind::PeerDown
        ]
    );

    // A reset seen by its own hook and by the state change is told once.
    let mut world = World::established(Params::default());
    assert_eq!(
        world.event(1100, 1, TcpEventKind::ResetReceived),
        std::slice::from_ref(&closed)
    );
    let told = world.event(
        1100,
        1,
        change(TcpState::Established, TcpState::Closed, Some(104)),
    );
    let down = SignalKind::ConnectionDown {
        connection: ID,
        error: Some(104),
    };
    assert_eq!(told, [down.clone(), SignalKind::PeerDown]);

    // By the state change alone, too.
    let mut world = World::established(Params::default());
    let told = world.event(
        1100,
        1,
        change(TcpState::Established, TcpState::Closed, Some(104)),
    );
    assert_eq!(told, [closed, down, SignalKind::PeerDown]);
    assert_eq!(
        world.event(1101, 1, TcpEventKind::ResetReceived).len(),
        1,
        "late, but told"
    );
}

#[test]
fn found_connections_are_up_and_their_echoes_change_nothing() {
    let mut world = World::new(Params::default());
    let found = |state| TcpEventKind::Found {
        state,
        owner: Some(owner()),
    };
    let up = world.event(10, 1, found(TcpState::Established));
    assert_eq!(
        up,
        [
            SignalKind::PeerUp { source: source() },
            SignalKind::ConnectionUp {
                connection: ID,
                source: source()
            }
        ]
    );
    assert_eq!(world.event(11, 1, found(TcpState::Established)), []);
    assert_eq!(world.event(12, 1, found(TcpState::SynSent)), []);
    assert_eq!(world.tracker.peers(at(12))[0].owner, Some(owner()));
    world.event(20, 1, change(TcpState::Established, TcpState::Closed, None));
    assert_eq!(
        world.event(21, 1, found(TcpState::Established)),
        [],
        "an old snapshot"
    );
    assert_eq!(
        world.event(22, 9, found(TcpState::CloseWait)),
        [],
        "nothing left to watch"
    );
    assert_eq!(world.tracker.peers(at(22))[0].connections, 0);
}

#[test]
fn retransmissions_are_told_and_counted_by_class() {
    let mut world = World::established(Params::default());
    let classes = [
        RetransmitClass::TailLossProbe,
        RetransmitClass::Timeout { count: 1 },
        RetransmitClass::Timeout { count: 2 },
        RetransmitClass::Fast,
        RetransmitClass::Syn,
        RetransmitClass::SynAck,
        RetransmitClass::Other,
    ];
    for class in classes {
        let told = world.event(1100, 1, TcpEventKind::Retransmitted { class });
        assert_eq!(
            told,
            [SignalKind::Retransmitted {
                connection: ID,
                class
            }]
        );
    }
    let r = world.tracker.peers(at(1100))[0].retransmits;
    let counts = [
        r.tail_loss_probe,
        r.timeout,
        r.fast,
        r.syn,
        r.syn_ack,
        r.other,
    ];
    assert_eq!(counts, [1, 2, 1, 1, 1, 1]);
    let told = world.event(1200, 1, TcpEventKind::Error { errno: 113 });
    assert_eq!(
        told,
        [SignalKind::SocketError {
            connection: ID,
            errno: 113
        }]
    );
}

#[test]
fn a_passive_open_learns_its_peer_late_and_mapped_addresses_are_plain() {
    let mut world = World::new(Params::default());
    world.remote = "0.0.0.0:0".to_owned();
    world.event(10, 1, change(TcpState::Listen, TcpState::SynReceived, None));
    assert_eq!(world.tracker.counters().peers, 0);
    world.remote = "[::ffff:203.0.113.7]:5000".to_owned();
    let told = world.event(
        11,
        1,
        change(TcpState::SynReceived, TcpState::Established, None),
    );
    assert_eq!(told.len(), 2);
    assert_eq!(
        world.tracker.peers(at(11))[0].peer.to_string(),
        "203.0.113.7"
    );

    // Known first under another address: the count moves with it.
    world.remote = "192.0.2.1:1".to_owned();
    world.event(20, 2, change(TcpState::Closed, TcpState::SynSent, None));
    world.remote = PEER.to_owned();
    world.event(
        21,
        2,
        change(TcpState::SynSent, TcpState::Established, None),
    );
    let peers = world.tracker.peers(at(21));
    let counts: Vec<_> = peers.iter().map(|p| (p.opening, p.connections)).collect();
    assert_eq!(counts, [(0, 0), (0, 2)]);
}

#[test]
fn memory_is_bounded_and_live_connections_stay() {
    let params = Params {
        max_connections: 32,
        max_peers: 8,
        ..Params::default()
    };
    let mut world = World::established(params);
    world.sample(1010, sample(Some(1005), None));
    // Handshakes to many hosts that never answer.
    for n in 0..500 {
        world.remote = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
        world.event(
            2000 + n,
            100 + n,
            change(TcpState::Closed, TcpState::SynSent, None),
        );
        let counters = world.tracker.counters();
        assert!(
            counters.connections <= 32 && counters.peers <= 8,
            "{counters:?}"
        );
    }
    let counters = world.tracker.counters();
    assert!(counters.connections_refused > 0, "{counters:?}");
    // They fail, and their room is used again.
    for n in 0..500 {
        world.remote = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
        world.event(
            9000 + n,
            100 + n,
            change(TcpState::SynSent, TcpState::Closed, Some(110)),
        );
        let counters = world.tracker.counters();
        assert!(
            counters.connections <= 32 && counters.peers <= 8,
            "{counters:?}"
        );
    }
    assert!(world.tracker.counters().peers_evicted > 0);
    world.remote = PEER.to_owned();
    let us = world
        .tracker
        .peers(at(9600))
        .into_iter()
        .find(|p| p.connections == 1)
        .unwrap();
    assert_eq!(us.peer.to_string(), "203.0.113.7");
    assert_eq!(us.oldest_unacked, Some(ms(9600 - 1005)));
}

#[test]
fn idle_connections_leave_before_busy_ones_and_say_so() {
    let params = Params {
        max_connections: 4,
        ..Params::default()
    };
    let mut world = World::new(params);
    for id in 1..=4 {
        world.event(
            1000,
            id,
            change(TcpState::SynReceived, TcpState::Established, None),
        );
        world.event(
            1000 + id,
            id,
            TcpEventKind::Sample(sample(if id == 1 { Some(1000) } else { None }, None)),
        );
    }
    let opened = world.event(
        2000,
        5,
        change(TcpState::SynReceived, TcpState::Established, None),
    );
    assert_eq!(opened, [], "all are live");
    assert_eq!(world.tracker.counters().connections_refused, 1);
    let opened = world.event(
        70_000,
        6,
        change(TcpState::SynReceived, TcpState::Established, None),
    );
    let down = SignalKind::ConnectionDown {
        connection: ConnectionId(2),
        error: None,
    };
    let up = SignalKind::ConnectionUp {
        connection: ConnectionId(6),
        source: source(),
    };
    assert_eq!(opened, [down, up]);
    assert_eq!(world.tracker.counters().connections_evicted, 1);
    assert_eq!(world.tracker.peers(at(70_000))[0].connections, 4);
}

#[test]
fn words_about_strangers_are_counted() {
    let mut world = World::new(Params::default());
    let mut out = Vec::new();
    for kind in [
        TcpEventKind::Gone,
        TcpEventKind::ResetSent,
        TcpEventKind::Sample(sample(None, None)),
        TcpEventKind::Retransmitted {
            class: RetransmitClass::SynAck,
        },
        change(TcpState::Established, TcpState::FinWait1, None),
    ] {
        world
            .tracker
            .handle(at(5), &event(5, 77, PEER, kind), &mut out);
    }
    assert_eq!(out, []);
    assert_eq!(world.tracker.counters().unknown, 5);
    assert_eq!(world.tracker.counters().connections, 0);
}
