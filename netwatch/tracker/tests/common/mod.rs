//! A small world to drive the tracker with.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use events::{
    ConnectionId, Flow, Outstanding, Owner, Signal, SignalKind, TcpEvent, TcpEventKind, TcpSample,
    TcpState, Timestamp,
};
use tracker::{Params, Tracker};

pub const PEER: &str = "203.0.113.7:26656";

pub fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn flow(remote: &str) -> Flow {
    let remote: SocketAddr = remote.parse().unwrap();
    let local = if remote.is_ipv4() {
        "198.51.100.10:40000"
    } else {
        "[2001:db8:1::10]:40000"
    };
    Flow {
        local: local.parse().unwrap(),
        remote,
    }
}

pub fn event(ms: u64, id: u64, remote: &str, kind: TcpEventKind) -> TcpEvent {
    TcpEvent {
        at: at(ms),
        connection: ConnectionId(id),
        flow: flow(remote),
        kind,
    }
}

pub fn change(from: TcpState, to: TcpState, error: Option<i32>) -> TcpEventKind {
    TcpEventKind::StateChanged {
        from,
        to,
        error,
        owner: None,
    }
}

/// A sample with srtt 20 ms and mdev 2 ms: the limit is 68 ms.
pub fn sample(since: Option<u64>, acked: Option<u64>) -> TcpSample {
    TcpSample {
        outstanding: since.map(|s| Outstanding { since: at(s) }),
        acked_at: acked.map(at),
        sent_at: since.map(at),
        received_at: acked.map(at),
        srtt: ms(20),
        mdev: ms(2),
        min_rtt: ms(19),
        last_rtt: Some(ms(20)),
        zero_window: false,
    }
}

pub struct World {
    pub tracker: Tracker,
    pub remote: String,
}

impl World {
    pub fn new(params: Params) -> Self {
        Self {
            tracker: Tracker::new(params),
            remote: PEER.to_owned(),
        }
    }

    /// With connection 1 established at 1,000 ms.
    pub fn established(params: Params) -> Self {
        let mut world = Self::new(params);
        world.event(980, 1, change(TcpState::Closed, TcpState::SynSent, None));
        let up = world.event(
            1000,
            1,
            change(TcpState::SynSent, TcpState::Established, None),
        );
        assert_eq!(up.len(), 2, "{up:?}");
        world
    }

    pub fn event(&mut self, ms: u64, id: u64, kind: TcpEventKind) -> Vec<SignalKind> {
        let mut out = Vec::new();
        let event = event(ms, id, &self.remote.clone(), kind);
        self.tracker.handle(at(ms), &event, &mut out);
        kinds(out)
    }

    pub fn sample(&mut self, ms: u64, sample: TcpSample) -> Vec<SignalKind> {
        self.event(ms, 1, TcpEventKind::Sample(sample))
    }

    pub fn timeout(&mut self, ms: u64) -> Vec<SignalKind> {
        let mut out = Vec::new();
        self.tracker.handle_timeout(at(ms), &mut out);
        kinds(out)
    }

    /// The same sample every 5 ms, each followed by a timeout.
    pub fn sweep(&mut self, from: u64, to: u64, sample: TcpSample) -> Vec<(u64, SignalKind)> {
        let mut told = Vec::new();
        for now in (from..=to).step_by(5) {
            told.extend(self.sample(now, sample).into_iter().map(|k| (now, k)));
            told.extend(self.timeout(now).into_iter().map(|k| (now, k)));
        }
        told
    }
}

pub fn owner() -> Owner {
    Owner {
        pid: 4242,
        comm: "validator".to_owned(),
    }
}

fn kinds(signals: Vec<Signal>) -> Vec<SignalKind> {
    signals.into_iter().map(|s| s.kind).collect()
}

/// A small deterministic generator (the constants are those of MMIX).
pub struct Lcg(pub u64);

impl Lcg {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}
