//! A small deterministic world in virtual time: a validator with two egresses, 40 peers in 8
//! prefixes of 5 origin ASes, anchors, gateways, a router that tells routes, and faults.

#![allow(dead_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use correlator::{Correlator, EgressParams, Output, Params, Thresholds};
use events::{
    AliveSign, Asn, BgpSignal, Conclusion, ConnectionId, EgressName, FibChange, FibRoute,
    HostSignal, NeighborId, PeerKey, Prefix, ProbeOutcome, ProbeRequest, ProbeResult, ProbeSource,
    ProbeTarget, RetransmitClass, RouteAttributes, RouteChange, RouteFact, Signal, SignalKind,
    Timestamp, Verdict,
};

pub const UPSTREAM_A: Asn = Asn(64510);
pub const UPSTREAM_B: Asn = Asn(64520);
pub const TRANSIT: Asn = Asn(64600);
pub const LOCAL: Asn = Asn(211_396);

pub fn ms(n: u64) -> Timestamp {
    Timestamp::from_millis(n)
}

pub fn a() -> EgressName {
    EgressName::from("a")
}

pub fn b() -> EgressName {
    EgressName::from("b")
}

/// Knuth's MMIX generator: enough to draw worlds.
pub struct Lcg(u64);

impl Lcg {
    pub fn new(seed: u64) -> Self {
        let mut lcg = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1));
        lcg.next();
        lcg.next();
        lcg
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, per_million: u64) -> bool {
        self.below(1_000_000) < per_million
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Packets out through the egress die behind its gateway.
    Outbound(EgressName),
    /// Packets in through the egress die before its gateway.
    Inbound(EgressName),
    Gateway(EgressName),
    /// The gateway forwards but answers no probes.
    GatewayMute(EgressName),
    Carrier(EgressName),
    Origin(Asn),
    Transit,
    Prefix(usize),
    Peer(usize),
    /// All answers take so much longer.
    Slow(Duration),
    /// Answers through one egress take so much longer.
    SlowEgress(EgressName, Duration),
    /// IPv6 dies behind the gateway.
    OutboundV6(EgressName),
}

#[derive(Clone)]
pub struct Setup {
    pub seed: u64,
    pub faults: Vec<(u64, u64, Fault)>,
    pub probes: bool,
    pub ebpf: bool,
    pub bgp: bool,
    /// Egress that origins and anchors send to us by; `None`: drawn for each.
    pub inbound: Option<EgressName>,
    pub withdraw_at: Option<u64>,
    pub noise: bool,
    /// Affected peers move to b after a verdict that permits it.
    pub reroute: bool,
    pub gap: u64,
    pub stall: Option<(u64, u64)>,
    pub flow_via_backup: bool,
    pub peers: usize,
    pub anchors: usize,
    pub session_down_at: Option<u64>,
    /// Configured egresses: none, a, or a and b.
    pub egresses: usize,
    /// The kernel's routes are told.
    pub fib: bool,
    pub lost_at: Option<u64>,
    pub neighbor_failed_at: Option<u64>,
    /// Origins from this one on lie behind the transit AS, by `a`.
    pub transit_from: usize,
    /// So many anchors do.
    pub anchors_behind: usize,
}

impl Setup {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            faults: Vec::new(),
            probes: true,
            ebpf: true,
            bgp: true,
            inbound: None,
            withdraw_at: None,
            noise: false,
            reroute: false,
            gap: 50,
            stall: None,
            flow_via_backup: true,
            peers: 40,
            anchors: 3,
            session_down_at: None,
            egresses: 2,
            fib: true,
            lost_at: None,
            neighbor_failed_at: None,
            transit_from: 3,
            anchors_behind: 0,
        }
    }
    pub fn fault(mut self, from: u64, to: u64, fault: Fault) -> Self {
        self.faults.push((from, to, fault));
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connect(usize),
    Send(usize),
    Ack(usize, Timestamp),
    FullAck(usize, Timestamp),
    Check(usize, Timestamp),
    Timeout(usize, Timestamp, u8),
    ProbeTick(usize),
    Probe(EgressName, ProbeSource, ProbeTarget),
    ProbeDone(
        Box<(
            EgressName,
            ProbeSource,
            ProbeTarget,
            Timestamp,
            Option<Duration>,
        )>,
    ),
    Carrier(EgressName, bool),
    Withdraw,
    SessionDown,
    Lag(Duration),
    Reroute(Vec<PeerKey>),
    Facts,
    Host(Host),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Lost,
    Neighbor,
}

pub struct Peer {
    pub address: IpAddr,
    pub prefix: Prefix,
    pub prefix_index: usize,
    pub origin: Asn,
    pub transit: bool,
    pub rtt: Duration,
    pub egress: EgressName,
    unacked: VecDeque<Timestamp>,
    lost: BTreeSet<Timestamp>,
    overdue: bool,
}

struct Ticker {
    egress: EgressName,
    source: ProbeSource,
    target: ProbeTarget,
    every: Duration,
}

pub struct World {
    pub setup: Setup,
    pub peers: Vec<Peer>,
    pub anchors: Vec<(IpAddr, Asn, Duration)>,
    return_via: BTreeMap<Asn, EgressName>,
    tickers: Vec<Ticker>,
    rng: Lcg,
    queue: BinaryHeap<Reverse<(Timestamp, u64, Event)>>,
    sequence: u64,
    pub correlator: Correlator,
    pub outputs: Vec<(Timestamp, Output)>,
    now: Timestamp,
    pub timeouts: u64,
}

const GATEWAY_RTT: Duration = Duration::from_micros(400);

fn flow_source(v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10))
    }
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut rng = Lcg::new(setup.seed);
        let origins: Vec<Asn> = (0..5).map(|i| Asn(64_700 + i)).collect();
        let of_prefix = [0, 0, 1, 1, 2, 2, 3, 4];
        let mut peers = Vec::new();
        for i in 0..setup.peers {
            let p = i % 8;
            let v4 = p != 3 && p != 5 && p != 7;
            let host = 10 + i / 8;
            let (address, prefix) = if v4 {
                let ip = IpAddr::V4(Ipv4Addr::new(203, 0, p as u8, host as u8));
                (ip, format!("203.0.{p}.0/24").parse().unwrap())
            } else {
                let ip = IpAddr::V6(Ipv6Addr::new(
                    0x2001,
                    0xdb8,
                    0x100 + p as u16,
                    0,
                    0,
                    0,
                    0,
                    host as u16,
                ));
                (
                    ip,
                    format!("2001:db8:{:x}::/48", 0x100 + p).parse().unwrap(),
                )
            };
            let origin = origins[of_prefix[p]];
            peers.push(Peer {
                address,
                prefix,
                prefix_index: p,
                origin,
                transit: of_prefix[p] >= setup.transit_from,
                rtt: Duration::from_millis(5 + rng.below(146)),
                egress: a(),
                unacked: VecDeque::new(),
                lost: BTreeSet::new(),
                overdue: false,
            });
        }
        let mut anchors = Vec::new();
        for i in 0..setup.anchors {
            let v4 = i % 3 != 2;
            let address = if v4 {
                IpAddr::V4(Ipv4Addr::new(192, 88, i as u8, 1))
            } else {
                IpAddr::V6(Ipv6Addr::new(
                    0x2001,
                    0xdb8,
                    0x900 + i as u16,
                    0,
                    0,
                    0,
                    0,
                    1,
                ))
            };
            anchors.push((
                address,
                Asn(64_800 + i as u32),
                Duration::from_millis(5 + rng.below(100)),
            ));
        }
        let mut return_via = BTreeMap::new();
        for asn in origins.iter().copied().chain(anchors.iter().map(|x| x.1)) {
            let drawn = if rng.below(2) == 0 { a() } else { b() };
            return_via.insert(asn, setup.inbound.clone().unwrap_or(drawn));
        }
        let mut tickers = Vec::new();
        for (e, egress) in [a(), b()].into_iter().enumerate().take(setup.egresses) {
            for v in [4, 6] {
                let gateway = gateway(e, v == 4);
                tickers.push(Ticker {
                    egress: egress.clone(),
                    source: ProbeSource::Link,
                    target: ProbeTarget::Gateway(gateway),
                    every: Duration::from_millis(20),
                });
            }
            for (address, _, _) in &anchors {
                for source in [ProbeSource::Link, ProbeSource::Flow] {
                    tickers.push(Ticker {
                        egress: egress.clone(),
                        source,
                        target: ProbeTarget::Anchor(*address),
                        every: Duration::from_millis(50),
                    });
                }
            }
        }
        let params = Params {
            run_id: "run".into(),
            egresses: [a(), b()]
                .into_iter()
                .enumerate()
                .take(setup.egresses)
                .map(|(e, name)| EgressParams {
                    name,
                    gateways: vec![gateway(e, true), gateway(e, false)],
                })
                .collect(),
            anchors: anchors.iter().map(|x| (x.0, x.1)).collect(),
            flow_sources: vec![flow_source(true), flow_source(false)],
            local_as: Some(LOCAL),
            probes: setup.probes,
            thresholds: Thresholds::default(),
        };
        let mut world = Self {
            correlator: Correlator::new(params),
            setup,
            peers,
            anchors,
            return_via,
            tickers,
            rng,
            queue: BinaryHeap::new(),
            sequence: 0,
            outputs: Vec::new(),
            now: Timestamp::ZERO,
            timeouts: 0,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        if self.setup.ebpf {
            for i in 0..self.peers.len() {
                let at = self.rng.below(200);
                self.push(ms(at), Event::Connect(i));
            }
        }
        self.push(ms(300), Event::Facts);
        if self.setup.probes {
            for i in 0..self.tickers.len() {
                let phase = self.rng.below(self.tickers[i].every.as_millis() as u64);
                self.push(ms(300 + phase), Event::ProbeTick(i));
            }
        }
        for (from, to, fault) in self.setup.faults.clone() {
            if let Fault::Carrier(egress) = fault {
                self.push(
                    ms(from) + Duration::from_millis(3),
                    Event::Carrier(egress.clone(), false),
                );
                self.push(
                    ms(to) + Duration::from_millis(3),
                    Event::Carrier(egress, true),
                );
            }
        }
        if let Some(at) = self.setup.withdraw_at {
            self.push(ms(at), Event::Withdraw);
        }
        if let Some(at) = self.setup.lost_at {
            self.push(ms(at), Event::Host(Host::Lost));
        }
        if let Some(at) = self.setup.neighbor_failed_at {
            self.push(ms(at), Event::Host(Host::Neighbor));
        }
        if let Some(at) = self.setup.session_down_at {
            self.push(ms(at), Event::SessionDown);
        }
        if let Some((from, to)) = self.setup.stall {
            self.push(ms(to), Event::Lag(Duration::from_millis(to - from)));
        }
    }

    fn push(&mut self, at: Timestamp, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn active(&self, t: Timestamp) -> impl Iterator<Item = &Fault> {
        self.setup
            .faults
            .iter()
            .filter(move |(from, to, _)| t >= ms(*from) && t < ms(*to))
            .map(|(_, _, f)| f)
    }

    fn slow(&self, t: Timestamp, egress: &EgressName) -> Duration {
        self.active(t)
            .filter_map(|f| match f {
                Fault::Slow(extra) => Some(*extra),
                Fault::SlowEgress(e, extra) if e == egress => Some(*extra),
                _ => None,
            })
            .max()
            .unwrap_or_default()
    }

    /// A packet sent at `t` through `egress` arrives.
    fn out_ok(&self, t: Timestamp, egress: &EgressName, to: IpAddr) -> bool {
        let peer = self.peers.iter().position(|p| p.address == to);
        !self.active(t).any(|f| match f {
            Fault::Outbound(e) | Fault::Gateway(e) | Fault::Carrier(e) => e == egress,
            Fault::OutboundV6(e) => e == egress && to.is_ipv6(),
            Fault::Origin(asn) => peer.is_some_and(|i| self.peers[i].origin == *asn),
            Fault::Transit => {
                let anchor = self.anchors.iter().position(|x| x.0 == to);
                let behind = anchor.is_some_and(|n| n < self.setup.anchors_behind);
                *egress == a() && (behind || peer.is_some_and(|i| self.peers[i].transit))
            }
            Fault::Prefix(p) => peer.is_some_and(|i| self.peers[i].prefix_index == *p),
            Fault::Peer(n) => peer == Some(*n),
            Fault::Inbound(_) | Fault::GatewayMute(_) | Fault::Slow(_) | Fault::SlowEgress(..) => {
                false
            }
        })
    }

    /// An answer that arrives at `t` comes through.
    fn in_ok(&self, t: Timestamp, egress: &EgressName, source: ProbeSource, from: IpAddr) -> bool {
        let asn = self
            .peers
            .iter()
            .find(|p| p.address == from)
            .map(|p| p.origin)
            .or(self.anchors.iter().find(|x| x.0 == from).map(|x| x.1))
            .unwrap();
        let via = match source {
            ProbeSource::Link => egress,
            ProbeSource::Flow => &self.return_via[&asn],
        };
        !self.active(t).any(|f| match f {
            Fault::Inbound(e) | Fault::Gateway(e) | Fault::Carrier(e) => e == via,
            _ => false,
        })
    }

    fn path(&self, i: usize, egress: &EgressName) -> Vec<Asn> {
        let p = &self.peers[i];
        let mut path = vec![if *egress == a() {
            UPSTREAM_A
        } else {
            UPSTREAM_B
        }];
        if p.transit && *egress == a() {
            path.push(TRANSIT);
        }
        path.push(p.origin);
        path
    }

    fn attributes(&self, i: usize, egress: &EgressName) -> RouteAttributes {
        RouteAttributes {
            prefix: self.peers[i].prefix,
            as_path: self.path(i, egress),
            next_hop: gateway(usize::from(*egress == b()), true),
            received_at: self.now,
            validation: None,
        }
    }

    /// Runs until `end`, collecting outputs.
    pub fn run(&mut self, end: u64) {
        let end = ms(end);
        loop {
            let next = self.queue.peek().map(|Reverse((at, _, _))| *at);
            let due = self.correlator.next_timeout();
            let at = match (next, due) {
                (Some(event), Some(due)) if due < event => due,
                (Some(event), _) => event,
                (None, Some(due)) => due,
                (None, None) => break,
            };
            let at = at.max(self.now);
            if at > end {
                break;
            }
            // A stalled host handles everything at its end.
            let at = match self.setup.stall {
                Some((from, to)) if at >= ms(from) && at < ms(to) => ms(to),
                _ => at,
            };
            self.now = at;
            let mut out = Vec::new();
            if next.is_some_and(|event| event <= at) {
                let Reverse((_, _, event)) = self.queue.pop().unwrap();
                self.step(event);
            } else {
                self.timeouts += 1;
                self.correlator.handle_timeout(at, &mut out);
                let due = self.correlator.next_timeout();
                assert!(
                    due.is_none_or(|due| due > at),
                    "timeout at {at} stays due at {due:?}"
                );
            }
            for output in out {
                self.react(&output);
                self.outputs.push((at, output));
            }
        }
        self.now = end;
    }

    fn signal(&mut self, i: usize, kind: SignalKind) {
        let signal = Signal {
            at: self.now,
            peer: PeerKey(self.peers[i].address),
            kind,
        };
        self.correlator.signal(self.now, &signal);
    }

    fn limit(&self, i: usize) -> Duration {
        let rtt = self.peers[i].rtt;
        rtt + rtt / 5 + Duration::from_millis(45)
    }

    fn step(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Connect(i) => {
                let source = flow_source(self.peers[i].address.is_ipv4());
                let connection = ConnectionId(i as u64);
                self.signal(i, SignalKind::PeerUp { source });
                self.signal(i, SignalKind::ConnectionUp { connection, source });
                self.fib(i);
                let wait = self.rng.below(self.setup.gap);
                self.push(ms(500 + wait), Event::Send(i));
            }
            Event::Send(i) => {
                self.transmit(i, now);
                let gap = self.setup.gap * 1000;
                let wait = gap * 4 / 5 + self.rng.below(gap * 2 / 5 + 1);
                self.push(now + Duration::from_micros(wait), Event::Send(i));
            }
            Event::Ack(i, sent) => {
                let p = &self.peers[i];
                let egress = p.egress.clone();
                if !self.in_ok(now, &egress, ProbeSource::Flow, p.address) {
                    self.peers[i].lost.insert(sent);
                    return;
                }
                // A lost acknowledgement is covered by the next; a lost byte must be sent again.
                if self.peers[i].lost.range(..sent).next().is_some() {
                    let again = now + self.peers[i].rtt;
                    self.push(again, Event::FullAck(i, sent));
                } else {
                    self.acked(i, sent);
                }
            }
            Event::FullAck(i, sent) => {
                let p = &self.peers[i];
                let egress = p.egress.clone();
                if self.out_ok(now, &egress, p.address)
                    && self.in_ok(now, &egress, ProbeSource::Flow, p.address)
                {
                    self.acked(i, sent);
                }
            }
            Event::Check(i, sent) => {
                let p = &mut self.peers[i];
                if p.overdue || p.unacked.front() != Some(&sent) {
                    return;
                }
                p.overdue = true;
                let limit = self.limit(i);
                let connection = ConnectionId(i as u64);
                self.signal(
                    i,
                    SignalKind::AckOverdue {
                        connection,
                        since: sent,
                        limit,
                    },
                );
                let timeout = sent + self.peers[i].rtt + Duration::from_millis(200);
                self.push(timeout.max(now), Event::Timeout(i, sent, 1));
            }
            Event::Timeout(i, sent, count) => {
                if self.peers[i].unacked.front() != Some(&sent) {
                    return;
                }
                let connection = ConnectionId(i as u64);
                let class = RetransmitClass::Timeout { count };
                self.signal(i, SignalKind::Retransmitted { connection, class });
                self.retransmit(i);
                let wait =
                    (self.peers[i].rtt + Duration::from_millis(200)) * 2_u32.pow(count.into());
                if count < 10 {
                    self.push(now + wait, Event::Timeout(i, sent, count + 1));
                }
            }
            Event::ProbeTick(t) => {
                let ticker = &self.tickers[t];
                let (egress, source, target) =
                    (ticker.egress.clone(), ticker.source, ticker.target);
                let every = ticker.every;
                self.probe(egress, source, target);
                self.push(now + every, Event::ProbeTick(t));
            }
            Event::Probe(egress, source, target) => self.probe(egress, source, target),
            Event::ProbeDone(done) => {
                let (egress, source, target, sent_at, rtt) = *done;
                let source_address = flow_source(target.address().is_ipv4());
                let result = ProbeResult {
                    sent_at,
                    egress,
                    target,
                    source,
                    source_address,
                    outcome: rtt.map_or(ProbeOutcome::Lost, |rtt| ProbeOutcome::Reply { rtt }),
                };
                self.correlator.probe(now, &result);
            }
            Event::Carrier(egress, up) => {
                let signal = HostSignal::Carrier { egress, up };
                self.correlator.host(now, &signal);
            }
            Event::Lag(lag) => {
                self.correlator.host(now, &HostSignal::TimerLag { lag });
            }
            Event::Host(Host::Lost) => {
                let stage = events::LossStage::UrgentRing;
                let signal = HostSignal::Lost { stage, count: 10 };
                self.correlator.host(now, &signal);
            }
            Event::Host(Host::Neighbor) => {
                let signal = HostSignal::Neighbor {
                    egress: a(),
                    gateway: gateway(0, true),
                    reachable: false,
                };
                self.correlator.host(now, &signal);
            }
            Event::Withdraw => self.withdraw(),
            Event::SessionDown => {
                let signal = BgpSignal::SessionDown {
                    neighbor: NeighborId::session(gateway(0, true)),
                    egress: a(),
                    reason: events::SessionDownReason::HoldTimerExpired,
                };
                self.correlator.bgp(now, &signal);
            }
            Event::Facts => self.facts(),
            Event::Reroute(peers) => {
                for i in 0..self.peers.len() {
                    if peers.contains(&PeerKey(self.peers[i].address)) {
                        self.peers[i].egress = b();
                        self.fib(i);
                    }
                }
            }
        }
    }

    fn transmit(&mut self, i: usize, sent: Timestamp) {
        let p = &self.peers[i];
        let (egress, address, rtt) = (p.egress.clone(), p.address, p.rtt);
        // A flow in its backoff sends nothing new.
        if self.peers[i].unacked.len() > 64 {
            return;
        }
        let mut late = self.slow(sent, &egress);
        if self.setup.noise && self.rng.chance(400) {
            late += Duration::from_millis(60 + self.rng.below(300));
        }
        let jitter = Duration::from_micros(self.rng.below(4000));
        self.peers[i].unacked.push_back(sent);
        if self.out_ok(sent, &egress, address) {
            self.push(sent + rtt + jitter + late, Event::Ack(i, sent));
        } else {
            self.peers[i].lost.insert(sent);
        }
        let sweep = Duration::from_micros(self.rng.below(5000));
        let limit = self.limit(i);
        self.push(sent + limit + sweep, Event::Check(i, sent));
    }

    fn retransmit(&mut self, i: usize) {
        let p = &self.peers[i];
        let (egress, address, rtt) = (p.egress.clone(), p.address, p.rtt);
        if self.out_ok(self.now, &egress, address) {
            let newest = *self.peers[i].unacked.back().unwrap();
            self.push(self.now + rtt, Event::FullAck(i, newest));
        }
    }

    fn acked(&mut self, i: usize, sent: Timestamp) {
        let p = &mut self.peers[i];
        let before = p.unacked.len();
        p.unacked.retain(|s| *s > sent);
        p.lost.retain(|s| *s > sent);
        let progressed = p.unacked.len() < before;
        let front = p.unacked.front().copied();
        if p.overdue && progressed {
            p.overdue = false;
            let connection = ConnectionId(i as u64);
            let sign = AliveSign::Acknowledged;
            self.signal(i, SignalKind::Alive { connection, sign });
        }
        if let Some(front) = front {
            let due = front + self.limit(i);
            if due <= self.now {
                self.push(self.now + Duration::from_millis(1), Event::Check(i, front));
            }
        }
    }

    fn fib(&mut self, i: usize) {
        if !self.setup.fib {
            return;
        }
        let p = &self.peers[i];
        let v4 = p.address.is_ipv4();
        let change = FibChange {
            peer: PeerKey(p.address),
            source: flow_source(v4),
            route: Some(FibRoute {
                prefix: if v4 { "0.0.0.0/0" } else { "::/0" }.parse().unwrap(),
                table: 254,
                metric: 100,
                protocol: 4,
                interface: format!("wan-{}", p.egress),
                gateway: Some(gateway(usize::from(p.egress == b()), v4)),
                egress: (self.setup.egresses > 0).then(|| p.egress.clone()),
                ours: p.egress == b(),
            }),
        };
        self.correlator.fib(self.now, &change);
    }

    fn facts(&mut self) {
        if !self.setup.bgp {
            return;
        }
        for (e, egress) in [a(), b()].into_iter().enumerate() {
            let neighbor = NeighborId::session(gateway(e, true));
            let upstream = if e == 0 { UPSTREAM_A } else { UPSTREAM_B };
            for i in 0..self.peers.len() {
                let fact = RouteFact {
                    peer: PeerKey(self.peers[i].address),
                    neighbor,
                    egress: egress.clone(),
                    route: Some(self.attributes(i, &egress)),
                    stale: false,
                };
                self.correlator.bgp(self.now, &BgpSignal::Fact(fact));
            }
            for (n, (address, asn, _)) in self.anchors.clone().into_iter().enumerate() {
                let behind = e == 0 && n < self.setup.anchors_behind;
                let transit = behind.then_some(TRANSIT);
                let length = if address.is_ipv4() { 24 } else { 48 };
                let fact = RouteFact {
                    peer: PeerKey(address),
                    neighbor,
                    egress: egress.clone(),
                    route: Some(RouteAttributes {
                        prefix: Prefix::new(address, length).unwrap().trunc(),
                        as_path: [upstream].into_iter().chain(transit).chain([asn]).collect(),
                        next_hop: neighbor.address,
                        received_at: self.now,
                        validation: None,
                    }),
                    stale: false,
                };
                self.correlator.bgp(self.now, &BgpSignal::Fact(fact));
            }
        }
    }

    fn withdraw(&mut self) {
        let mut done = BTreeSet::new();
        for i in 0..self.peers.len() {
            let prefix = self.peers[i].prefix;
            let hit = self.setup.faults.iter().any(|(_, _, f)| match f {
                Fault::Origin(asn) => self.peers[i].origin == *asn,
                Fault::Transit => self.peers[i].transit,
                _ => true,
            });
            if !hit || !done.insert(prefix) {
                continue;
            }
            let peers = self
                .peers
                .iter()
                .filter(|p| p.prefix == prefix)
                .map(|p| PeerKey(p.address))
                .collect();
            let change = RouteChange {
                neighbor: NeighborId::session(gateway(0, true)),
                egress: a(),
                prefix,
                old: Some(self.attributes(i, &a())),
                new: None,
                peers,
            };
            self.correlator.bgp(self.now, &BgpSignal::Change(change));
        }
    }

    fn probe(&mut self, egress: EgressName, source: ProbeSource, target: ProbeTarget) {
        let now = self.now;
        let address = target.address();
        let (rtt, ok) = match target {
            ProbeTarget::Gateway(_) => {
                let dead = self.active(now).any(|f| match f {
                    Fault::Gateway(e) | Fault::Carrier(e) | Fault::GatewayMute(e) => *e == egress,
                    _ => false,
                });
                (GATEWAY_RTT, !dead)
            }
            ProbeTarget::Anchor(_) | ProbeTarget::Suspect(_) => {
                let rtt = self
                    .anchors
                    .iter()
                    .find(|x| x.0 == address)
                    .map(|x| x.2)
                    .or(self
                        .peers
                        .iter()
                        .find(|p| p.address == address)
                        .map(|p| p.rtt))
                    .unwrap();
                let legal =
                    self.setup.flow_via_backup || source == ProbeSource::Link || egress == a();
                let rtt = rtt + self.slow(now, &egress);
                let ok = legal
                    && self.out_ok(now, &egress, address)
                    && self.in_ok(now + rtt, &egress, source, address);
                (rtt, ok)
            }
        };
        let ok = ok && !(self.setup.noise && self.rng.chance(10_000));
        let base = rtt - self.slow(now, &egress).min(rtt);
        // The prober's patience: learned, and long where it knows nothing.
        let deadline = match target {
            ProbeTarget::Gateway(_) => Duration::from_millis(30),
            ProbeTarget::Anchor(_) => {
                (base + Duration::from_millis(17)).max(Duration::from_millis(30))
            }
            ProbeTarget::Suspect(_) => Duration::from_secs(1),
        };
        let rtt = rtt + Duration::from_micros(self.rng.below(1000));
        // A probe given up can still be answered.
        let done = |rtt| Event::ProbeDone(Box::new((egress.clone(), source, target, now, rtt)));
        let lost = (!ok || rtt > deadline).then(|| done(None));
        let answer = ok.then(|| done(Some(rtt)));
        if let Some(lost) = lost {
            self.push(now + deadline, lost);
        }
        if let Some(answer) = answer {
            self.push(now + rtt, answer);
        }
    }

    fn react(&mut self, output: &Output) {
        match output {
            Output::Probe(ProbeRequest {
                targets,
                egresses,
                sources,
                count,
                spacing,
                ..
            }) => {
                assert!(self.setup.probes, "probes are off and one was asked for");
                assert!(targets.len() <= 16);
                for target in targets {
                    for egress in egresses {
                        for source in sources {
                            for n in 0..u32::from(*count) {
                                self.push(
                                    self.now + *spacing * n,
                                    Event::Probe(
                                        egress.clone(),
                                        *source,
                                        ProbeTarget::Suspect(*target),
                                    ),
                                );
                            }
                        }
                    }
                }
            }
            Output::Conclusion(Conclusion::Confirmed { incident, .. }) if self.setup.reroute => {
                let moves = matches!(
                    incident.verdict,
                    Some(
                        Verdict::UpstreamAs { .. }
                            | Verdict::Gateway { .. }
                            | Verdict::LocalLink { .. }
                    )
                );
                if moves {
                    let at = self.now + Duration::from_millis(20);
                    self.push(at, Event::Reroute(incident.affected.clone()));
                }
            }
            _ => {}
        }
    }

    /// All verdicts, with their times.
    pub fn verdicts(&self) -> Vec<(Timestamp, Verdict)> {
        self.outputs
            .iter()
            .filter_map(|(at, o)| match o {
                Output::Conclusion(Conclusion::Confirmed { incident, .. }) => {
                    Some((*at, incident.verdict.clone().unwrap()))
                }
                _ => None,
            })
            .collect()
    }

    /// Names of incidents that healed, with their times.
    pub fn healed(&self) -> Vec<Timestamp> {
        self.outputs
            .iter()
            .filter(|(_, o)| matches!(o, Output::Conclusion(Conclusion::Healed { .. })))
            .map(|(at, _)| *at)
            .collect()
    }

    pub fn suspicions(&self) -> usize {
        self.outputs
            .iter()
            .filter(|(_, o)| matches!(o, Output::Conclusion(Conclusion::Suspected(_))))
            .count()
    }

    /// The timeline, for failing tests.
    pub fn story(&self) -> String {
        let mut text = String::new();
        for (at, output) in &self.outputs {
            if let Output::Journal(e) = output {
                text.push_str(&format!("{at} [{:?}] {}\n", e.kind, e.text));
                for line in &e.evidence {
                    text.push_str(&format!("      {} {:?}\n", line.text, line.weight));
                }
            }
        }
        text
    }
}

fn gateway(e: usize, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + e as u8 * 128))
    } else {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0xff00 + e as u16,
            0,
            0,
            0,
            0,
            1,
        ))
    }
}
