//! The ACK-overdue clock.

mod common;

use common::{World, at, change, ms, sample};
use events::{
    AliveSign, ConnectionId, RetransmitClass, SignalKind, TcpEventKind, TcpSample, TcpState,
};
use tracker::Params;

const ID: ConnectionId = ConnectionId(1);

fn overdue(since: u64, limit: u64) -> SignalKind {
    SignalKind::AckOverdue {
        connection: ID,
        since: at(since),
        limit: ms(limit),
    }
}

fn alive(sign: AliveSign) -> SignalKind {
    SignalKind::Alive {
        connection: ID,
        sign,
    }
}

fn transmitted() -> SignalKind {
    SignalKind::Transmitted { connection: ID }
}

/// Overdue since 1,068 ms: sent at 1,000, limit 68.
fn dark() -> World {
    let mut world = World::established(Params::default());
    let told = world.sweep(1020, 1070, sample(Some(1000), None));
    assert_eq!(told, [(1070, overdue(1000, 68))]);
    world
}

#[test]
fn silence_is_told_once_and_at_its_time() {
    let mut world = World::established(Params::default());
    assert_eq!(world.tracker.next_timeout(), None);
    assert_eq!(world.sample(1065, sample(Some(1000), None)), []);
    assert_eq!(world.tracker.next_timeout(), Some(at(1068)));
    assert_eq!(world.timeout(1067), []);
    assert_eq!(world.timeout(1068), [overdue(1000, 68)]);
    assert_eq!(world.sweep(1070, 3000, sample(Some(1000), None)), []);
    assert_eq!(world.tracker.next_timeout(), None);
    let status = &world.tracker.peers(at(3000))[0];
    assert_eq!((status.overdue, status.oldest_unacked), (1, Some(ms(2000))));
}

#[test]
fn an_acknowledgement_in_time_moves_the_deadline() {
    let mut world = World::established(Params::default());
    world.sample(1060, sample(Some(1000), None));
    assert_eq!(world.tracker.next_timeout(), Some(at(1068)));
    assert_eq!(world.sample(1062, sample(Some(1025), Some(1031))), []);
    assert_eq!(
        world.tracker.next_timeout(),
        None,
        "by then this sample proves nothing"
    );
    assert_eq!(world.sample(1070, sample(Some(1025), Some(1031))), []);
    assert_eq!(world.tracker.next_timeout(), Some(at(1093)));
    assert_eq!(world.sample(1080, sample(None, Some(1076))), []);
    assert_eq!(world.tracker.next_timeout(), None);
    assert_eq!(world.timeout(2000), []);
}

#[test]
fn an_old_sample_cannot_prove_silence() {
    let mut world = World::established(Params::default());
    world.sample(1045, sample(Some(1000), None));
    assert_eq!(world.tracker.next_timeout(), Some(at(1068)));
    // The collector stood still, or its word was lost: the deadline passes without effect ...
    assert_eq!(world.timeout(1071), []);
    assert_eq!(world.tracker.next_timeout(), None);
    assert_eq!(world.tracker.counters().unsampled_deadlines, 1);
    // ... and the next sample decides.
    world.sample(1100, sample(Some(1000), None));
    assert_eq!(world.tracker.next_timeout(), Some(at(1068)));
    assert_eq!(world.timeout(1100), [overdue(1000, 68)]);

    let mut world = World::established(Params::default());
    world.sample(1030, sample(Some(1000), None));
    assert_eq!(world.timeout(1068), []);
    assert_eq!(world.sample(1100, sample(Some(1080), Some(1041))), []);
    assert_eq!(world.timeout(1100), []);
}

#[test]
fn samples_out_of_order_are_left_out() {
    let mut world = World::established(Params::default());
    world.sample(1060, sample(None, Some(1055)));
    assert_eq!(world.sample(1050, sample(Some(1000), None)), []);
    assert_eq!(world.tracker.next_timeout(), None);
    assert_eq!(world.tracker.counters().stale_samples, 1);
}

#[test]
fn an_acknowledgement_ends_the_episode_and_another_may_follow() {
    let mut world = dark();
    assert_eq!(
        world.sample(1080, sample(None, Some(1078))),
        [alive(AliveSign::Acknowledged)]
    );
    assert_eq!(world.sample(1085, sample(None, Some(1078))), []);
    let told = world.sweep(1220, 1300, sample(Some(1200), Some(1078)));
    assert_eq!(told, [(1270, overdue(1200, 68))]);
}

#[test]
fn what_is_left_after_a_late_acknowledgement_is_timed_from_it() {
    let mut world = dark();
    // The first of many lost segments is acknowledged; the next was sent at 1,010.
    let recovering = sample(Some(1010), Some(1500));
    assert_eq!(
        world.sample(1502, recovering),
        [alive(AliveSign::Acknowledged)]
    );
    assert_eq!(world.tracker.next_timeout(), Some(at(1568)));
    let told = world.sweep(1505, 1600, recovering);
    assert_eq!(told, [(1570, overdue(1500, 68))], "recovery stopped");
}

#[test]
fn the_oldest_byte_cannot_become_younger_without_an_acknowledgement() {
    let mut world = World::established(Params::default());
    world.sample(1050, sample(Some(1000), Some(990)));
    world.sample(1055, sample(Some(1040), Some(990)));
    assert_eq!(world.tracker.next_timeout(), Some(at(1068)));
    let mut world = dark();
    assert_eq!(
        world.sample(1080, sample(Some(1075), None)).len(),
        1,
        "only the transmission"
    );
}

#[test]
fn segments_without_acknowledgement_prove_the_way_in() {
    let mut world = dark();
    let received = |when| TcpSample {
        received_at: Some(at(when)),
        ..sample(Some(1000), None)
    };
    // Left the peer before it could know of our byte: proves nothing.
    assert_eq!(world.sample(1075, received(1028)), []);
    let told = world.sample(1080, received(1079));
    assert_eq!(told, [alive(AliveSign::ReceivedOnly)]);
    assert_eq!(world.sample(1085, received(1079)), []);
    assert_eq!(
        world.sample(1130, received(1129)),
        [],
        "at most ten a second"
    );
    assert_eq!(
        world.sample(1180, received(1179)),
        [alive(AliveSign::ReceivedOnly)]
    );
}

#[test]
fn the_way_in_is_told_with_the_overdue_acknowledgement() {
    let mut world = World::established(Params::default());
    let received = TcpSample {
        received_at: Some(at(1050)),
        ..sample(Some(1000), None)
    };
    let told = world.sweep(1055, 1075, received);
    assert_eq!(
        told,
        [
            (1070, overdue(1000, 68)),
            (1070, alive(AliveSign::ReceivedOnly))
        ]
    );
}

#[test]
fn transmissions_on_an_overdue_connection_are_told_once_each() {
    let mut world = dark();
    let sent = |when| TcpSample {
        sent_at: Some(at(when)),
        ..sample(Some(1000), None)
    };
    assert_eq!(world.sample(1075, sent(1050)), [], "before it was overdue");
    assert_eq!(world.sample(1105, sent(1100)), [transmitted()]);
    assert_eq!(world.sample(1110, sent(1100)), []);
    let class = RetransmitClass::Timeout { count: 1 };
    let told = world.event(1240, 1, TcpEventKind::Retransmitted { class });
    assert_eq!(
        told,
        [
            SignalKind::Retransmitted {
                connection: ID,
                class
            },
            transmitted()
        ]
    );
    assert_eq!(world.sample(1245, sent(1240)), [], "the same one");
}

#[test]
fn a_closed_window_suspends_the_clock() {
    let mut world = World::established(Params::default());
    let closed = TcpSample {
        zero_window: true,
        ..sample(Some(1000), None)
    };
    assert_eq!(world.sweep(1030, 5000, closed), []);
    assert_eq!(world.tracker.next_timeout(), None);
    let told = world.sweep(5005, 5080, sample(Some(1000), None));
    assert_eq!(told, [(5070, overdue(5000, 68))], "timed from its opening");
}

#[test]
fn without_a_round_trip_time_the_initial_limit_holds() {
    let mut world = World::established(Params::default());
    let unknown = TcpSample {
        srtt: ms(0),
        mdev: ms(0),
        last_rtt: None,
        ..sample(Some(1000), None)
    };
    let told = world.sweep(1005, 2100, unknown);
    assert_eq!(told, [(2000, overdue(1000, 1000))]);
}

#[test]
fn ends_while_overdue() {
    let established = TcpState::Established;
    let mut world = dark();
    let told = world.event(1100, 1, change(established, TcpState::CloseWait, None));
    assert_eq!(told, [alive(AliveSign::Closed)]);
    assert_eq!(world.tracker.peers(at(1100))[0].overdue, 0);

    let mut world = dark();
    assert_eq!(
        world.event(1100, 1, change(established, TcpState::FinWait1, None)),
        []
    );
    assert_eq!(
        world.tracker.peers(at(1100))[0].overdue,
        1,
        "its owner gave up, the path is no better"
    );
    let told = world.event(
        1200,
        1,
        change(TcpState::FinWait1, TcpState::FinWait2, None),
    );
    assert_eq!(told, [alive(AliveSign::Acknowledged)]);
    assert_eq!(world.tracker.peers(at(1200))[0].overdue, 0);

    let mut world = dark();
    let told = world.event(9000, 1, change(established, TcpState::Closed, Some(110)));
    let down = SignalKind::ConnectionDown {
        connection: ID,
        error: Some(110),
    };
    assert_eq!(told, [down, SignalKind::PeerDown]);
    assert_eq!(world.sweep(9005, 9100, sample(Some(1000), None)), []);
}

#[test]
fn a_closing_connection_is_not_timed() {
    let mut world = World::established(Params::default());
    world.sample(1030, sample(Some(1000), None));
    world.event(
        1040,
        1,
        change(TcpState::Established, TcpState::FinWait1, None),
    );
    assert_eq!(world.tracker.next_timeout(), None);
    assert_eq!(world.sweep(1045, 1500, sample(Some(1000), None)), []);
}

/// One exchange: sent at `sent`, acknowledged `age` later; whether it was called overdue.
fn exchange(world: &mut World, sent: u64, age: u64, before: u64, retransmit: bool) -> bool {
    let mut told = world.sweep(sent + 20, sent + age - 1, sample(Some(sent), Some(before)));
    if retransmit {
        let class = RetransmitClass::Timeout { count: 1 };
        world.event(sent + age - 1, 1, TcpEventKind::Retransmitted { class });
    }
    told.extend(
        world
            .sample(sent + age, sample(None, Some(sent + age)))
            .into_iter()
            .map(|k| (0, k)),
    );
    told.iter()
        .any(|(_, k)| matches!(k, SignalKind::AckOverdue { .. }))
}

#[test]
fn delayed_acknowledgements_are_learned_and_outages_are_not() {
    let mut world = World::established(Params::default());
    let (mut sent, mut before) = (10_000, 1000);
    let mut late = Vec::new();
    for _ in 0..6 {
        late.push(exchange(&mut world, sent, 160, before, false));
        before = sent + 160;
        sent += 5000;
    }
    assert_eq!(late, [true, true, true, false, false, false]);
    // 160 - 68, and a quarter more.
    assert_eq!(world.tracker.peers(at(sent))[0].ack_allowance, ms(115));

    let mut world = World::established(Params::default());
    let (mut sent, mut before) = (10_000, 1000);
    for _ in 0..20 {
        assert!(
            exchange(&mut world, sent, 160, before, true),
            "never patient with loss"
        );
        before = sent + 160;
        sent += 5000;
    }
    for _ in 0..20 {
        assert!(
            exchange(&mut world, sent, 400, before, false),
            "nor beyond the cap"
        );
        before = sent + 400;
        sent += 5000;
    }
    assert_eq!(world.tracker.peers(at(sent))[0].ack_allowance, ms(0));
}

/// Between two looks bytes were acknowledged and others sent: when each was is not known.
#[test]
fn what_was_not_seen_late_teaches_nothing() {
    let mut world = World::established(Params::default());
    for n in 0..20 {
        let now = 10_000 + n * 5000;
        world.sample(now + 30, sample(Some(now), Some(now)));
        world.sample(now + 180, sample(Some(now + 150), Some(now + 170)));
        world.sample(now + 200, sample(None, Some(now + 190)));
    }
    let peers = world.tracker.peers(at(200_000));
    assert_eq!(peers[0].ack_allowance, ms(0));
}

#[test]
fn a_spike_of_the_round_trip_time_is_told_with_its_end() {
    let mut world = World::established(Params::default());
    let mut told = Vec::new();
    for n in 0..300u64 {
        let now = 2000 + n * 50;
        let rtt = if (100..200).contains(&n) {
            ms(150)
        } else {
            ms(20)
        };
        let s = TcpSample {
            srtt: rtt,
            last_rtt: Some(rtt),
            ..sample(None, Some(now))
        };
        told.extend(world.sample(now, s).into_iter().map(|k| (n, k)));
    }
    let spike = SignalKind::RttSpike {
        rtt: ms(150),
        baseline: ms(20),
    };
    assert_eq!(
        told,
        [(102, spike), (202, SignalKind::RttNormal { rtt: ms(20) })]
    );
}

#[test]
fn the_acknowledgement_after_a_retransmission_is_told_too() {
    let class = RetransmitClass::TailLossProbe;
    let told = SignalKind::Retransmitted {
        connection: ID,
        class,
    };
    let mut world = World::established(Params::default());
    world.sample(1010, sample(None, Some(1001)));
    let retransmitted = TcpEventKind::Retransmitted { class };
    assert_eq!(
        world.event(1050, 1, retransmitted.clone()),
        std::slice::from_ref(&told)
    );
    // Acknowledged since the sample before, but not since the doubt.
    assert_eq!(world.sample(1065, sample(Some(1020), Some(1015))), []);
    assert_eq!(
        world.tracker.next_timeout(),
        Some(at(1088)),
        "it is timed all the same"
    );
    let acknowledged = alive(AliveSign::Acknowledged);
    assert_eq!(
        world.sample(1080, sample(None, Some(1077))),
        std::slice::from_ref(&acknowledged)
    );
    assert_eq!(
        world.sample(1085, sample(None, Some(1084))),
        [],
        "told once"
    );

    // The event comes after the sample that shows its answer.
    world.sample(1200, sample(None, Some(1199)));
    assert_eq!(
        world.event(1198, 1, retransmitted),
        [told, acknowledged.clone()]
    );

    let error = SignalKind::SocketError {
        connection: ID,
        errno: 113,
    };
    assert_eq!(
        world.event(1300, 1, TcpEventKind::Error { errno: 113 }),
        [error]
    );
    assert_eq!(world.sample(1320, sample(None, Some(1310))), [acknowledged]);
}

#[test]
fn long_silences_may_be_sampled_rarely() {
    let mut world = World::established(Params::default());
    let slow = TcpSample {
        srtt: ms(400),
        ..sample(Some(1000), None)
    };
    assert_eq!(world.sample(1410, slow), []);
    assert_eq!(
        world.timeout(1448),
        [overdue(1000, 448)],
        "38 ms after the sample"
    );
}

#[test]
fn what_was_acknowledged_was_sent_before_what_is_outstanding() {
    let mut world = World::established(Params::default());
    let delivered = |world: &World| world.tracker.delivered().map(|(_, at)| at).next();
    world.sample(2_000, sample(None, Some(2_000)));
    assert_eq!(
        delivered(&world),
        Some(at(1_980)),
        "a round-trip time before"
    );
    // The acknowledgement was queued for 300 ms.
    world.sample(2_500, sample(Some(2_180), Some(2_500)));
    assert_eq!(delivered(&world), Some(at(2_180)));
    let all = events::TcpSample {
        sent_at: Some(at(2_190)),
        ..sample(None, Some(2_600))
    };
    world.sample(2_600, all);
    assert_eq!(delivered(&world), Some(at(2_190)));
}
