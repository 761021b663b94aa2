//! A validator with two uplinks in virtual time, drawn from a seed: connections, routers, probes and
//! adapters that answer the engine's effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use engine::{Engine, Params};
use events::{
    Asn, BgpSignal, ConnectionId, Effect, EffectId, EgressName, FibChange, FibRoute, Flow, Input,
    NeighborId, OperatorCommand, Outcome, Outstanding, PeerKey, PlanId, PlanMode, Prefix,
    ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget, RetransmitClass, RouteAttributes,
    RouteChange, RouteFact, RouteSpec, Sequenced, TcpEvent, TcpEventKind, TcpSample, TcpState,
    Timestamp,
};

pub const CUT: u64 = 3_000;
pub const HEAL: u64 = 7_000;
pub const END: u64 = 14_000;
const PEERS: usize = 24;
const SEND_GAP: u64 = 50;
const SWEEP: u64 = 5;

pub fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn egress(index: usize) -> EgressName {
    EgressName::from(["a", "b"][index])
}

fn gateway(index: usize, ipv6: bool) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0xa + index as u16,
            0,
            0,
            0,
            0,
            1,
        ))
    } else {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2 + index as u8, 1))
    }
}

fn flow_source(ipv6: bool) -> IpAddr {
    let text = if ipv6 {
        "2001:db8:1::10"
    } else {
        "198.51.100.10"
    };
    text.parse().expect("address")
}

/// Knuth's MMIX generator.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What varies between worlds.
#[derive(Clone, Copy)]
pub struct Setup {
    pub seed: u64,
    /// The kernel takes so many milliseconds to install.
    pub install_takes: u64,
    pub mode: PlanMode,
    /// Packets through the first uplink die from `CUT` to `HEAL`.
    pub cut: bool,
    /// So do answers to the flows' source, whichever way they were sent.
    pub answers_die: bool,
    /// People work on the network all the time.
    pub maintenance: bool,
}

impl Setup {
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            install_takes: 4,
            mode: PlanMode::Act,
            cut: true,
            answers_die: false,
            maintenance: false,
        }
    }
}

struct Peer {
    address: IpAddr,
    prefix: Prefix,
    origin: Asn,
    rtt: u64,
    phase: u64,
    unacked: VecDeque<u64>,
    lost: bool,
    acked_at: Option<u64>,
    sent_at: Option<u64>,
    timeouts: u8,
    retransmit_at: u64,
    dirty: bool,
}

/// The world, and what it told and heard.
pub struct World {
    setup: Setup,
    rng: Lcg,
    peers: Vec<Peer>,
    anchors: Vec<(IpAddr, u64)>,
    watched: BTreeSet<PeerKey>,
    routes: BTreeMap<PlanId, Vec<RouteSpec>>,
    /// What arrives when: inputs, and acknowledgements (peer, newest byte covered).
    due: BTreeMap<(u64, u64), Due>,
    pushed: u64,
    engine: Engine,
    pub inputs: Vec<Sequenced>,
    pub effects: Vec<(EffectId, Effect)>,
}

enum Due {
    Input(Box<Input>),
    Ack(usize, u64),
    Probe(usize, ProbeSource, ProbeTarget),
    Installed(PlanId, Vec<RouteSpec>),
    Reverted(PlanId, Outcome),
}

pub fn params(mode: PlanMode) -> Params {
    let gateways = |index| vec![gateway(index, false), gateway(index, true)];
    let anchors = anchors();
    Params {
        tracker: tracker::Params::default(),
        correlator: correlator::Params {
            run_id: "host-1".to_owned(),
            egresses: [0, 1]
                .map(|index| correlator::EgressParams {
                    name: egress(index),
                    gateways: gateways(index),
                })
                .to_vec(),
            anchors: anchors.iter().map(|(a, asn, _)| (*a, *asn)).collect(),
            flow_sources: vec![flow_source(false), flow_source(true)],
            local_as: Some(Asn(64496)),
            probes: true,
            thresholds: correlator::Thresholds::default(),
        },
        policy: remediation::Policy {
            mode,
            allowed: ["203.0.0.0/16", "2001:db8:100::/40"]
                .map(|prefix| prefix.parse().expect("prefix"))
                .to_vec(),
            flow_sources: vec![flow_source(false), flow_source(true)],
            egresses: [0, 1]
                .map(|index| remediation::Egress {
                    name: egress(index),
                    interface: format!("wan{index}"),
                    gateways: gateways(index),
                })
                .to_vec(),
            anchors: anchors
                .iter()
                .map(|(address, asn, _)| remediation::Anchor {
                    address: *address,
                    asn: Some(*asn),
                })
                .collect(),
            ..remediation::Policy::default()
        },
    }
}

fn anchors() -> Vec<(IpAddr, Asn, u64)> {
    [
        "192.88.99.1",
        "192.88.98.1",
        "2001:db8:99::1",
        "2001:db8:98::1",
    ]
    .iter()
    .zip([64700, 64701, 64702, 64703])
    .map(|(address, asn)| {
        let rtt = 10 + u64::from(asn % 10) * 7;
        (address.parse().expect("address"), Asn(asn), rtt)
    })
    .collect()
}

impl World {
    /// A world that has run to its end.
    pub fn run(setup: Setup) -> Self {
        let mut rng = Lcg(setup.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        rng.below(2);
        let peers = (0..PEERS)
            .map(|i| {
                let (net, host) = (i % 8, 10 + (i / 8) as u16);
                let (address, prefix): (IpAddr, String) = if net < 5 {
                    let address = Ipv4Addr::new(203, 0, net as u8, host as u8);
                    (address.into(), format!("203.0.{net}.0/24"))
                } else {
                    let third = 0x100 + net as u16;
                    let address = Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, host);
                    (address.into(), format!("2001:db8:{third:x}::/48"))
                };
                Peer {
                    address,
                    prefix: prefix.parse().expect("prefix"),
                    origin: Asn(64600 + net as u32 / 2),
                    rtt: 5 + rng.below(80),
                    phase: rng.below(SEND_GAP),
                    unacked: VecDeque::new(),
                    lost: false,
                    acked_at: None,
                    sent_at: None,
                    timeouts: 0,
                    retransmit_at: u64::MAX,
                    dirty: true,
                }
            })
            .collect();
        let mut world = Self {
            setup,
            rng,
            peers,
            anchors: anchors().into_iter().map(|(a, _, rtt)| (a, rtt)).collect(),
            watched: BTreeSet::new(),
            routes: BTreeMap::new(),
            due: BTreeMap::new(),
            pushed: 0,
            engine: Engine::new(params(setup.mode)),
            inputs: Vec::new(),
            effects: Vec::new(),
        };
        for now in 100..END {
            world.tick(now);
        }
        world
    }

    fn push(&mut self, at: u64, due: Due) {
        self.pushed += 1;
        self.due.insert((at, self.pushed), due);
    }

    fn input(&mut self, at: u64, input: Input) {
        self.push(at, Due::Input(Box::new(input)));
    }

    fn feed(&mut self, now: u64, input: Input) {
        let sequenced = self.engine.handle(ms(now), input);
        self.inputs.push(sequenced);
    }

    /// One millisecond: what happens, what arrives, what the engine wants.
    fn tick(&mut self, now: u64) {
        if now == 100 {
            self.start(now);
        }
        if self.setup.cut && now == CUT + 2_000 {
            self.withdraw(now);
        }
        for i in 0..PEERS {
            if now > 500 && (now + self.peers[i].phase).is_multiple_of(SEND_GAP) {
                self.transmit(now, i, false);
            }
            if now >= self.peers[i].retransmit_at {
                self.retransmit(now, i);
            }
        }
        self.probes(now);
        let mut at_hand = false;
        while let Some(entry) = self.due.first_entry().filter(|e| e.key().0 <= now) {
            at_hand = true;
            match entry.remove() {
                Due::Input(input) => self.feed(now, *input),
                Due::Ack(i, newest) => self.acked(now, i, newest),
                Due::Probe(index, source, target) => self.probe(now, index, source, target),
                Due::Installed(plan, routes) => self.installed(now, plan, routes),
                Due::Reverted(plan, outcome) => self.reverted(now, plan, outcome),
            }
        }
        for i in 0..PEERS {
            if self.peers[i].dirty && (now + self.peers[i].phase).is_multiple_of(SWEEP) {
                at_hand = true;
                self.sample(now, i);
            }
        }
        if at_hand || self.engine.next_timeout().is_some_and(|due| due <= ms(now)) {
            let sequenced = self.engine.handle_timeout(ms(now));
            self.inputs.push(sequenced);
            while let Some((id, effect)) = self.engine.poll_effect() {
                self.carry_out(now, &effect);
                self.effects.push((id, effect));
            }
        }
    }

    fn tcp(&mut self, now: u64, i: usize, kind: TcpEventKind) {
        let address = self.peers[i].address;
        let event = TcpEvent {
            at: ms(now),
            connection: ConnectionId(i as u64 + 1),
            flow: Flow {
                local: (flow_source(address.is_ipv6()), 8001).into(),
                remote: (address, 8001).into(),
            },
            kind,
        };
        self.feed(now, Input::Tcp(event));
    }

    fn start(&mut self, now: u64) {
        if self.setup.maintenance {
            let command = OperatorCommand::Maintenance {
                active: true,
                reason: Some("router".to_owned()),
            };
            self.feed(now, Input::Operator(command));
        }
        for i in 0..PEERS {
            let kind = TcpEventKind::Found {
                state: TcpState::Established,
                owner: None,
            };
            self.tcp(now, i, kind);
        }
        for index in [0, 1] {
            let up = BgpSignal::SessionUp {
                neighbor: NeighborId::session(gateway(index, false)),
                asn: Asn(64500 + index as u32),
                egress: egress(index),
            };
            self.input(now + 5, Input::Bgp(up));
        }
    }

    /// Packets to the wide network die behind the first uplink's gateway.
    fn dark(&self, at: u64, index: usize) -> bool {
        self.setup.cut && index == 0 && (CUT..HEAL).contains(&at)
    }

    /// Nothing addressed to the flows' source comes in.
    fn deaf(&self, at: u64) -> bool {
        self.setup.answers_die && (CUT..HEAL).contains(&at)
    }

    fn way(&self, peer: IpAddr) -> usize {
        let rerouted = self.routes.values().flatten();
        usize::from(
            rerouted
                .into_iter()
                .any(|route| route.prefix.contains(&peer)),
        )
    }

    fn transmit(&mut self, now: u64, i: usize, again: bool) {
        let index = self.way(self.peers[i].address);
        let dies = self.dark(now, index) || self.deaf(now + self.peers[i].rtt);
        let jitter = self.rng.below(3);
        let peer = &mut self.peers[i];
        if !again {
            if peer.unacked.len() >= 20 {
                return;
            }
            peer.unacked.push_back(now);
            if peer.unacked.len() == 1 {
                peer.retransmit_at = now + 200 + peer.rtt;
            }
        }
        peer.dirty = true;
        peer.sent_at = Some(now);
        if dies {
            peer.lost = true;
            return;
        }
        // Behind a hole only a retransmission, which starts at the hole, is acknowledged.
        if again || !peer.lost {
            peer.lost = false;
            let newest = peer.unacked.back().copied().unwrap_or(now);
            let at = now + peer.rtt + jitter;
            self.push(at, Due::Ack(i, newest));
        }
    }

    fn retransmit(&mut self, now: u64, i: usize) {
        let peer = &mut self.peers[i];
        peer.timeouts = (peer.timeouts + 1).min(6);
        let count = peer.timeouts;
        peer.retransmit_at = now + (200 + peer.rtt) * (1 << count);
        let class = RetransmitClass::Timeout { count };
        self.transmit(now, i, true);
        self.tcp(now, i, TcpEventKind::Retransmitted { class });
    }

    fn acked(&mut self, now: u64, i: usize, newest: u64) {
        let peer = &mut self.peers[i];
        let before = peer.unacked.len();
        peer.unacked.retain(|sent| *sent > newest);
        if peer.unacked.len() == before {
            return;
        }
        peer.acked_at = Some(now);
        peer.timeouts = 0;
        peer.dirty = true;
        peer.retransmit_at = match peer.unacked.is_empty() {
            true => u64::MAX,
            false => now + 200 + peer.rtt,
        };
    }

    fn sample(&mut self, now: u64, i: usize) {
        let peer = &mut self.peers[i];
        // The collector looks at a connection with something outstanding in every sweep.
        peer.dirty = !peer.unacked.is_empty();
        let rtt = Duration::from_millis(peer.rtt);
        let sample = TcpSample {
            outstanding: peer
                .unacked
                .front()
                .map(|sent| Outstanding { since: ms(*sent) }),
            acked_at: peer.acked_at.map(ms),
            sent_at: peer.sent_at.map(ms),
            received_at: peer.acked_at.map(ms),
            srtt: rtt,
            mdev: rtt / 20,
            min_rtt: rtt,
            last_rtt: peer.acked_at.map(|_| rtt),
            zero_window: false,
        };
        self.tcp(now, i, TcpEventKind::Sample(sample));
    }

    /// The probes that are always on: gateways every 20 ms, anchors every 50 ms.
    fn probes(&mut self, now: u64) {
        if now < 300 {
            return;
        }
        for index in [0, 1] {
            for ipv6 in [false, true] {
                if (now + 7 * index as u64 + u64::from(ipv6)).is_multiple_of(20) {
                    let target = ProbeTarget::Gateway(gateway(index, ipv6));
                    self.probe(now, index, ProbeSource::Link, target);
                }
            }
            for n in 0..self.anchors.len() {
                for (s, source) in [ProbeSource::Link, ProbeSource::Flow]
                    .into_iter()
                    .enumerate()
                {
                    if (now + (n * 11 + s * 5 + index * 23) as u64).is_multiple_of(50) {
                        let target = ProbeTarget::Anchor(self.anchors[n].0);
                        self.probe(now, index, source, target);
                    }
                }
            }
        }
    }

    fn probe(&mut self, now: u64, index: usize, source: ProbeSource, target: ProbeTarget) {
        let address = target.address();
        let anchor = self.anchors.iter().find(|(a, _)| *a == address);
        let rtt = match target {
            ProbeTarget::Gateway(_) => 0,
            ProbeTarget::Anchor(_) | ProbeTarget::Suspect(_) => anchor
                .map(|(_, rtt)| *rtt)
                .or_else(|| Some(self.peers.iter().find(|p| p.address == address)?.rtt))
                .unwrap_or(1),
        };
        let near = matches!(target, ProbeTarget::Gateway(_));
        let deaf = source == ProbeSource::Flow && self.deaf(now + rtt);
        let lost = !near && (self.dark(now, index) || deaf);
        let (after, outcome) = if lost {
            (rtt + 17, ProbeOutcome::Lost)
        } else {
            let micros = rtt * 1_000 + 100 + self.rng.below(500);
            let rtt = Duration::from_micros(micros);
            (micros.div_ceil(1_000), ProbeOutcome::Reply { rtt })
        };
        let result = ProbeResult {
            sent_at: ms(now),
            egress: egress(index),
            target,
            source,
            source_address: match source {
                ProbeSource::Link => gateway(index, address.is_ipv6()),
                ProbeSource::Flow => flow_source(address.is_ipv6()),
            },
            outcome,
        };
        self.input(now + after, Input::Probe(result));
    }

    fn route(&self, i: usize, index: usize) -> RouteAttributes {
        let peer = &self.peers[i];
        RouteAttributes {
            prefix: peer.prefix,
            as_path: vec![Asn(64500 + index as u32), peer.origin],
            next_hop: gateway(index, peer.address.is_ipv6()),
            received_at: ms(200),
            validation: None,
        }
    }

    fn fact(&mut self, at: u64, i: usize, index: usize, withdrawn: bool) {
        let fact = RouteFact {
            peer: PeerKey(self.peers[i].address),
            neighbor: NeighborId::session(gateway(index, false)),
            egress: egress(index),
            route: (!withdrawn).then(|| self.route(i, index)),
            stale: false,
        };
        self.input(at, Input::Bgp(BgpSignal::Fact(fact)));
    }

    /// The router behind the first uplink learns of the cut at last.
    fn withdraw(&mut self, now: u64) {
        for net in 0..8 {
            let prefix = self.peers[net].prefix;
            let touched: Vec<usize> = (0..PEERS).filter(|i| i % 8 == net).collect();
            let change = RouteChange {
                neighbor: NeighborId::session(gateway(0, false)),
                egress: egress(0),
                prefix,
                old: Some(self.route(net, 0)),
                new: None,
                peers: touched
                    .iter()
                    .map(|i| PeerKey(self.peers[*i].address))
                    .collect(),
            };
            self.input(now, Input::Bgp(BgpSignal::Change(change)));
            for i in touched {
                self.fact(now, i, 0, true);
            }
        }
    }

    fn fib(&mut self, at: u64, i: usize) {
        let address = self.peers[i].address;
        let index = self.way(address);
        let wide = if address.is_ipv6() {
            "::/0"
        } else {
            "0.0.0.0/0"
        };
        let change = FibChange {
            peer: PeerKey(address),
            source: flow_source(address.is_ipv6()),
            route: Some(FibRoute {
                prefix: match index {
                    0 => wide.parse().expect("prefix"),
                    _ => self.peers[i].prefix,
                },
                table: 254,
                metric: 100,
                protocol: if index == 0 { 4 } else { 198 },
                interface: format!("wan{index}"),
                gateway: Some(gateway(index, address.is_ipv6())),
                egress: Some(egress(index)),
                ours: index == 1,
            }),
        };
        self.input(at, Input::Fib(change));
    }

    fn moved(&mut self, now: u64, routes: &[RouteSpec]) {
        for i in 0..PEERS {
            let address = self.peers[i].address;
            if routes.iter().any(|route| route.prefix.contains(&address)) {
                self.fib(now + 1, i);
            }
        }
    }

    fn installed(&mut self, now: u64, plan: PlanId, routes: Vec<RouteSpec>) {
        if self.setup.mode == PlanMode::Act {
            self.routes.insert(plan, routes.clone());
            self.moved(now, &routes);
        }
        self.feed(now, Input::Outcome(Outcome::Installed { plan }));
    }

    fn reverted(&mut self, now: u64, plan: PlanId, outcome: Outcome) {
        let routes = self.routes.remove(&plan).unwrap_or_default();
        self.moved(now, &routes);
        self.feed(now, Input::Outcome(outcome));
    }

    /// The adapters' part.
    fn carry_out(&mut self, now: u64, effect: &Effect) {
        match effect {
            Effect::Watch { peers } => {
                for (peer, _) in peers {
                    let Some(i) = self.peers.iter().position(|p| p.address == peer.0) else {
                        continue;
                    };
                    if self.watched.insert(*peer) {
                        self.fib(now + 1, i);
                        self.fact(now + 2, i, 0, false);
                        self.fact(now + 2, i, 1, false);
                    }
                }
            }
            Effect::Probe(request) => {
                for target in &request.targets {
                    for name in &request.egresses {
                        let index = usize::from(*name == egress(1));
                        for source in &request.sources {
                            for n in 0..u32::from(request.count) {
                                let wait = (request.spacing * n).as_millis() as u64;
                                let target = ProbeTarget::Suspect(*target);
                                self.push(now + 1 + wait, Due::Probe(index, *source, target));
                            }
                        }
                    }
                }
            }
            Effect::Install(plan) => {
                let at = now + self.setup.install_takes;
                self.push(at, Due::Installed(plan.id, plan.routes.clone()));
            }
            Effect::Revert { plan, reason } => {
                let outcome = Outcome::Reverted {
                    plan: *plan,
                    reason: *reason,
                };
                self.push(now + 3, Due::Reverted(*plan, outcome));
            }
            Effect::Page(page) => {
                let incident = page.incident.clone();
                let (egress, attempt) = (Some(egress(1)), 1);
                self.input(
                    now + 2,
                    Input::Outcome(Outcome::PageSent {
                        incident: incident.clone(),
                        egress: egress.clone(),
                        attempt,
                    }),
                );
                self.input(
                    now + 30,
                    Input::Outcome(Outcome::PageAccepted {
                        incident,
                        egress,
                        attempt,
                    }),
                );
            }
            Effect::RenewLease { .. } | Effect::Nudge { .. } | Effect::Journal(_) => {}
        }
    }
}
