//! The tracker against a naive model, and against itself restored from a checkpoint.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Lcg, at, change, event, ms};
use events::{
    AliveSign, ConnectionId, Outstanding, RetransmitClass, Signal, SignalKind, TcpEvent,
    TcpEventKind, TcpSample, TcpState, Timestamp,
};
use tracker::{Params, Tracker};

/// One byte on its way: sent and acknowledged at these milliseconds.
#[derive(Clone, Copy, Debug)]
struct Byte {
    sent: u64,
    acked: u64,
}

/// A history of sends, each acknowledged after a round trip that sometimes is long; cumulative, as
/// TCP's are: nothing is acknowledged before what was sent before it.
fn history(random: &mut Lcg, end: u64) -> Vec<Byte> {
    let mut bytes = Vec::new();
    let (mut now, mut last_ack) = (1000, 0);
    while now < end {
        now += 1 + random.below(120);
        let age = match random.below(20) {
            0 => 60 + random.below(60),
            1 => 200 + random.below(800),
            _ => 15 + random.below(20),
        };
        last_ack = (now + age).max(last_ack);
        bytes.push(Byte {
            sent: now,
            acked: last_ack,
        });
    }
    bytes
}

/// What the collector would read at `now`.
fn read(bytes: &[Byte], now: u64) -> TcpSample {
    let oldest = bytes
        .iter()
        .filter(|b| b.sent <= now && b.acked > now)
        .map(|b| b.sent)
        .min();
    TcpSample {
        outstanding: oldest.map(|since| Outstanding { since: at(since) }),
        acked_at: bytes
            .iter()
            .map(|b| b.acked)
            .filter(|a| *a <= now)
            .max()
            .map(at),
        sent_at: bytes
            .iter()
            .map(|b| b.sent)
            .filter(|s| *s <= now)
            .max()
            .map(at),
        received_at: None,
        srtt: ms(20),
        mdev: ms(2),
        min_rtt: ms(15),
        last_rtt: Some(ms(20)),
        zero_window: false,
    }
}

/// The model: by the whole history, is the oldest byte overdue at `now`? It is timed from the last
/// acknowledgement where it was overdue already at that.
fn model_overdue(bytes: &[Byte], now: u64, limit: u64) -> bool {
    let Some(oldest) = bytes
        .iter()
        .filter(|b| b.sent <= now && b.acked > now)
        .map(|b| b.sent)
        .min()
    else {
        return false;
    };
    let last_ack = bytes
        .iter()
        .map(|b| b.acked)
        .filter(|a| *a <= now)
        .max()
        .unwrap_or(0);
    let start = if last_ack > oldest + limit {
        last_ack
    } else {
        oldest
    };
    now >= start + limit
}

#[test]
fn overdue_as_in_the_naive_model() {
    const LIMIT: u64 = 68;
    let (mut episodes, mut checks) = (0, 0);
    for seed in 0..200 {
        let mut random = Lcg(seed);
        let bytes = history(&mut random, 20_000);
        let params = Params {
            allowance_cap: Duration::ZERO,
            ..Params::default()
        };
        let mut tracker = Tracker::new(params);
        let mut out = Vec::new();
        let remote = common::PEER;
        let up = change(TcpState::SynReceived, TcpState::Established, None);
        tracker.handle(at(1000), &event(1000, 1, remote, up), &mut out);
        let mut overdue = false;
        let mut shown_ack = None;
        let mut was_shown = false;
        for now in (1005..20_500).step_by(5) {
            // As the collector does: while the oldest byte is older than srtt, and once on progress.
            let sample = read(&bytes, now);
            let old = sample
                .outstanding
                .is_some_and(|o| at(now).since(o.since) > sample.srtt);
            if old || (was_shown && sample.acked_at != shown_ack) {
                let kind = TcpEventKind::Sample(sample);
                tracker.handle(at(now), &event(now, 1, remote, kind), &mut out);
                shown_ack = sample.acked_at;
            }
            was_shown = old;
            tracker.handle_timeout(at(now), &mut out);
            for signal in out.drain(..) {
                match signal.kind {
                    SignalKind::AckOverdue { .. } => {
                        assert!(!overdue, "twice at {now}, seed {seed}");
                        overdue = true;
                        episodes += 1;
                    }
                    SignalKind::Alive {
                        sign: AliveSign::Acknowledged,
                        ..
                    } => {
                        assert!(overdue, "alive out of nothing at {now}, seed {seed}");
                        overdue = false;
                    }
                    _ => {}
                }
            }
            assert_eq!(
                overdue,
                model_overdue(&bytes, now, LIMIT),
                "at {now}, seed {seed}"
            );
            checks += 1;
        }
    }
    assert!(
        episodes > 1000 && checks > 500_000,
        "{episodes} episodes in {checks} checks"
    );
}

/// Anything in any order, sane or not.
fn storm(random: &mut Lcg, now: u64) -> TcpEvent {
    let states = [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynReceived,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::TimeWait,
        TcpState::Closed,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
        TcpState::Closing,
        TcpState::NewSynReceived,
    ];
    let mut state = || states[usize::try_from(random.below(12)).unwrap()];
    let (from, to) = (state(), state());
    let id = random.below(40);
    let remote = format!("203.0.113.{}:26656", id % 12 + 1);
    let when = now.saturating_sub(random.below(30));
    let mut past = || {
        random
            .below(4)
            .checked_sub(1)
            .map(|n| at(when.saturating_sub(n * 40)))
    };
    let (since, acked_at, sent_at, received_at) = (past(), past(), past(), past());
    let kind = match random.below(12) {
        0 => change(from, to, None),
        1 => change(from, TcpState::Established, None),
        2 => change(from, to, Some(104)),
        3 => TcpEventKind::Found {
            state: to,
            owner: Some(common::owner()),
        },
        4 => TcpEventKind::Gone,
        5 => TcpEventKind::Retransmitted {
            class: RetransmitClass::Fast,
        },
        6 => TcpEventKind::ResetReceived,
        7 => TcpEventKind::Error { errno: 113 },
        _ => TcpEventKind::Sample(TcpSample {
            outstanding: since.map(|since| Outstanding { since }),
            acked_at,
            sent_at,
            received_at,
            srtt: ms(random.below(3) * 20),
            mdev: ms(random.below(10)),
            min_rtt: ms(5),
            last_rtt: (random.below(2) == 0).then(|| ms(random.below(300))),
            zero_window: random.below(20) == 0,
        }),
    };
    event(when, id, &remote, kind)
}

fn small() -> Params {
    Params {
        max_connections: 24,
        max_peers: 8,
        closed_linger: ms(50),
        ..Params::default()
    }
}

#[test]
fn no_storm_unbalances_the_signals_or_the_memory() {
    let mut overdue_told = 0;
    for seed in 0..100 {
        let mut random = Lcg(seed);
        let mut tracker = Tracker::new(small());
        let mut up: BTreeMap<ConnectionId, bool> = BTreeMap::new();
        let mut out = Vec::new();
        for n in 0..3000 {
            let now = 1000 + n * 3;
            tracker.handle(at(now), &storm(&mut random, now), &mut out);
            tracker.handle_timeout(at(now), &mut out);
            assert!(tracker.next_timeout().is_none_or(|t| t > at(now)));
            for Signal { kind, .. } in out.drain(..) {
                match kind {
                    SignalKind::ConnectionUp { connection, .. } => {
                        assert_eq!(up.insert(connection, false), None, "seed {seed}, {n}");
                    }
                    SignalKind::ConnectionDown { connection, .. } => {
                        assert!(up.remove(&connection).is_some(), "seed {seed}, {n}");
                    }
                    SignalKind::AckOverdue { connection, .. } => {
                        assert_eq!(up.insert(connection, true), Some(false), "seed {seed}, {n}");
                        overdue_told += 1;
                    }
                    SignalKind::Alive {
                        connection,
                        sign: AliveSign::Acknowledged,
                    } => {
                        // Not only after an overdue one: after a retransmission or our FIN, too.
                        assert!(up.insert(connection, false).is_some(), "seed {seed}, {n}");
                    }
                    _ => {}
                }
            }
            let counters = tracker.counters();
            assert!(
                counters.connections <= 24 && counters.peers <= 8,
                "{counters:?}"
            );
            let connections: u32 = tracker.peers(at(now)).iter().map(|p| p.connections).sum();
            assert_eq!(
                usize::try_from(connections).unwrap(),
                up.len(),
                "seed {seed}, {n}"
            );
        }
    }
    assert!(overdue_told > 100, "{overdue_told}");
}

#[test]
fn a_restored_checkpoint_goes_on_identically() {
    let mut random = Lcg(7);
    let inputs: Vec<(Timestamp, TcpEvent)> = (0..4000)
        .map(|n| (at(1000 + n * 3), storm(&mut random, 1000 + n * 3)))
        .collect();
    let run = |tracker: &mut Tracker, inputs: &[(Timestamp, TcpEvent)]| {
        let mut out = Vec::new();
        for (now, event) in inputs {
            tracker.handle(*now, event, &mut out);
            tracker.handle_timeout(*now, &mut out);
        }
        serde_json::to_string(&out).unwrap()
    };
    let (head, tail) = inputs.split_at(2111);
    let mut tracker = Tracker::new(small());
    let told = run(&mut tracker, head);
    assert!(told.contains("ack_overdue"));
    let checkpoint = serde_json::to_string(&tracker).unwrap();
    let mut restored: Tracker = serde_json::from_str(&checkpoint).unwrap();
    assert_eq!(restored, tracker);
    assert_eq!(run(&mut restored, tail), run(&mut tracker, tail));
    assert_eq!(restored, tracker);
    assert_eq!(
        serde_json::to_string(&restored).unwrap(),
        serde_json::to_string(&tracker).unwrap()
    );

    let mut again = Tracker::new(small());
    assert_eq!(
        run(&mut again, head),
        told,
        "the same inputs, the same words"
    );
}
