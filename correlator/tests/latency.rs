//! Round-trip times that rise together: whose, why, and what becomes of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use correlator::{Correlator, EgressParams, Output, Params, Thresholds};
use events::{
    Asn, BgpSignal, Conclusion, ConnectionId, EgressName, EntryKind, FibChange, FibRoute,
    HostSignal, LatencyCause, LatencyScope, NeighborId, PeerKey, Prefix, ProbeOutcome, ProbeResult,
    ProbeSource, ProbeTarget, RoundTrip, RouteAttributes, RouteChange, RouteFact, Signal,
    SignalKind, Timestamp, Verdict,
};

const UPSTREAM: Asn = Asn(64_510);
const DETOUR: Asn = Asn(64_666);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn name(egress: usize) -> EgressName {
    EgressName::from(["a", "b"][egress])
}

struct Peer {
    key: PeerKey,
    egress: usize,
    origin: Asn,
    prefix: Prefix,
    usual: Duration,
    more: Duration,
    slow: bool,
}

/// A correlator that is told what a tracker and a prober would tell; nothing is lost unless a test
/// says so.
struct World {
    correlator: Correlator,
    peers: Vec<Peer>,
    /// What gateways and anchors take longer, by egress.
    gateways: [Duration; 2],
    anchors: [Duration; 2],
    rate: u64,
    now: u64,
    out: Vec<(u64, Output)>,
}

impl World {
    /// `shape`: of each prefix its origin, its egress and how many peers.
    fn new(shape: &[(u32, usize, usize)]) -> Self {
        let anchors = [1_u8, 2, 3].map(|n| {
            let address = IpAddr::V4(Ipv4Addr::new(192, 88, n, 1));
            (address, Asn(64_800 + u32::from(n)))
        });
        let mut world = Self {
            correlator: Correlator::new(Params {
                run_id: "run".into(),
                egresses: [0, 1]
                    .map(|e| EgressParams {
                        name: name(e),
                        gateways: vec![gateway(e)],
                    })
                    .to_vec(),
                anchors: anchors.to_vec(),
                flow_sources: vec![source()],
                local_as: None,
                probes: true,
                thresholds: Thresholds::default(),
            }),
            peers: Vec::new(),
            gateways: [Duration::ZERO; 2],
            anchors: [Duration::ZERO; 2],
            rate: 20_000,
            now: 0,
            out: Vec::new(),
        };
        for (n, (origin, egress, count)) in shape.iter().enumerate() {
            for host in 0..*count {
                let address = Ipv4Addr::new(203, 0, n as u8, 10 + host as u8);
                world.peers.push(Peer {
                    key: PeerKey(address.into()),
                    egress: *egress,
                    origin: Asn(*origin),
                    prefix: format!("203.0.{n}.0/24").parse().unwrap(),
                    usual: ms(20 + 5 * n as u64),
                    more: Duration::ZERO,
                    slow: false,
                });
            }
        }
        for i in 0..world.peers.len() {
            world.connect(i);
        }
        world.run(10_000);
        world
    }

    fn connect(&mut self, i: usize) {
        let peer = &self.peers[i];
        let (key, egress) = (peer.key, peer.egress);
        let connection = ConnectionId(i as u64);
        let source = source();
        self.tell(key, SignalKind::PeerUp { source });
        self.tell(key, SignalKind::ConnectionUp { connection, source });
        self.fib(i, egress);
        let fact = BgpSignal::Fact(RouteFact {
            peer: key,
            neighbor: NeighborId::session(gateway(egress)),
            egress: name(egress),
            route: Some(self.route(i, false)),
            stale: false,
        });
        self.correlator.bgp(at(self.now), &fact);
    }

    fn fib(&mut self, i: usize, egress: usize) {
        self.peers[i].egress = egress;
        let change = FibChange {
            peer: self.peers[i].key,
            source: source(),
            route: Some(FibRoute {
                prefix: "0.0.0.0/0".parse().unwrap(),
                table: 254,
                metric: 100,
                protocol: 4,
                interface: format!("wan{egress}"),
                gateway: Some(gateway(egress)),
                egress: Some(name(egress)),
                ours: false,
            }),
        };
        self.correlator.fib(at(self.now), &change);
    }

    fn route(&self, i: usize, detour: bool) -> RouteAttributes {
        let peer = &self.peers[i];
        let mut as_path = vec![UPSTREAM];
        as_path.extend(detour.then_some(DETOUR));
        as_path.push(peer.origin);
        RouteAttributes {
            prefix: peer.prefix,
            as_path,
            next_hop: gateway(peer.egress),
            received_at: at(self.now),
            validation: None,
        }
    }

    /// The routes of an origin take another path.
    fn detour(&mut self, origin: u32) {
        let peers: Vec<usize> = (0..self.peers.len())
            .filter(|i| self.peers[*i].origin == Asn(origin))
            .collect();
        let mut prefixes: Vec<Prefix> = peers.iter().map(|i| self.peers[*i].prefix).collect();
        prefixes.dedup();
        for prefix in prefixes {
            let of: Vec<usize> = peers
                .iter()
                .copied()
                .filter(|i| self.peers[*i].prefix == prefix)
                .collect();
            let change = BgpSignal::Change(RouteChange {
                neighbor: NeighborId::session(gateway(self.peers[of[0]].egress)),
                egress: name(self.peers[of[0]].egress),
                prefix,
                old: Some(self.route(of[0], false)),
                new: Some(self.route(of[0], true)),
                peers: of.iter().map(|i| self.peers[*i].key).collect(),
            });
            self.correlator.bgp(at(self.now), &change);
        }
    }

    fn tell(&mut self, peer: PeerKey, kind: SignalKind) {
        let now = at(self.now);
        self.correlator.signal(
            now,
            &Signal {
                at: now,
                peer,
                kind,
            },
        );
    }

    /// These peers take so much longer from now on; zero: as usual.
    fn slow(&mut self, more: u64, which: impl Fn(&Peer) -> bool) {
        for i in 0..self.peers.len() {
            if which(&self.peers[i]) {
                let peer = &mut self.peers[i];
                peer.more = ms(more);
                let (slow, key) = (more > 30, peer.key);
                let (rtt, baseline) = (peer.usual + peer.more, peer.usual);
                if std::mem::replace(&mut peer.slow, slow) != slow {
                    let spike = SignalKind::RttSpike { rtt, baseline };
                    let normal = SignalKind::RttNormal { rtt };
                    self.tell(key, if slow { spike } else { normal });
                }
            }
        }
    }

    /// Runs until then: probes every 50 ms, the rate each second, all peers measured.
    fn run(&mut self, until: u64) {
        while self.now < until {
            self.now += 10;
            let now = at(self.now);
            if self.now.is_multiple_of(50) {
                self.probe();
            }
            if self.now.is_multiple_of(1000) {
                let (egress, rate) = (name(0), self.rate);
                self.correlator
                    .host(now, &HostSignal::Sending { egress, rate });
            }
            if self.correlator.wants_round_trips(now) {
                let times = self.peers.iter().map(|peer| RoundTrip {
                    peer: peer.key,
                    at: now,
                    rtt: peer.usual + peer.more,
                    baseline: peer.usual,
                });
                self.correlator.round_trips(times);
            }
            let mut out = Vec::new();
            self.correlator.handle_timeout(now, &mut out);
            let due = self.correlator.next_timeout();
            assert!(due.is_none_or(|due| due > now), "{now} stays due");
            for output in out {
                if let Output::Rebase { peers } = &output {
                    for peer in self.peers.iter_mut().filter(|p| peers.contains(&p.key)) {
                        peer.usual += std::mem::take(&mut peer.more);
                        peer.slow = false;
                    }
                }
                self.out.push((self.now, output));
            }
        }
    }

    fn probe(&mut self) {
        let anchors = self.correlator.params().anchors.clone();
        for egress in [0, 1] {
            let targets = anchors
                .iter()
                .map(|(address, _)| {
                    let rtt = ms(15) + self.anchors[egress] + self.gateways[egress];
                    (ProbeTarget::Anchor(*address), rtt)
                })
                .chain([(
                    ProbeTarget::Gateway(gateway(egress)),
                    ms(1) + self.gateways[egress],
                )]);
            for (target, rtt) in targets {
                let result = ProbeResult {
                    sent_at: at(self.now) - rtt,
                    egress: name(egress),
                    target,
                    source: ProbeSource::Link,
                    source_address: source(),
                    outcome: ProbeOutcome::Reply { rtt },
                };
                self.correlator.probe(at(self.now), &result);
            }
        }
    }

    fn verdicts(&self) -> Vec<(u64, Verdict)> {
        let of = |(at, output): &(u64, Output)| match output {
            Output::Conclusion(Conclusion::Confirmed { incident, .. }) => {
                Some((*at, incident.verdict.clone()?))
            }
            _ => None,
        };
        self.out.iter().filter_map(of).collect()
    }

    /// The only verdict.
    fn verdict(&self) -> (LatencyScope, LatencyCause) {
        match self.verdicts().as_slice() {
            [(_, Verdict::Latency { scope, cause })] => (scope.clone(), *cause),
            others => panic!("{others:?}\n{}", self.story()),
        }
    }

    fn story(&self) -> String {
        let lines = self.out.iter().filter_map(|(at, output)| match output {
            Output::Journal(entry) => {
                let evidence: Vec<_> = entry.evidence.iter().map(|e| e.text.as_str()).collect();
                Some(format!("{at} {} [{}]", entry.text, evidence.join(" | ")))
            }
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn ended(&self) -> Vec<String> {
        let of = |(_, output): &(u64, Output)| match output {
            Output::Journal(e) if e.kind == EntryKind::Resolved => Some(e.text.clone()),
            _ => None,
        };
        self.out.iter().filter_map(of).collect()
    }

    fn rebased(&self) -> usize {
        let of = |(_, output): &(u64, Output)| match output {
            Output::Rebase { peers } => peers.len(),
            _ => 0,
        };
        self.out.iter().map(of).sum()
    }
}

fn gateway(egress: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + egress as u8))
}

fn source() -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10))
}

/// 18 peers by a, 6 by b.
fn usual() -> World {
    World::new(&[
        (64_701, 0, 4),
        (64_701, 0, 4),
        (64_702, 0, 5),
        (64_703, 0, 5),
        (64_704, 1, 6),
    ])
}

#[test]
fn a_remote_as_is_slow() {
    let mut world = usual();
    world.slow(150, |p| p.origin == Asn(64_701));
    world.run(15_000);
    let asn = Asn(64_701);
    assert_eq!(
        world.verdict(),
        (LatencyScope::As { asn }, LatencyCause::Unknown)
    );
    let (told, _) = world.verdicts()[0];
    assert!((12_000..12_100).contains(&told), "{told}");
    assert!(
        world
            .story()
            .contains("RTT to 8 peers of AS64701 is 150 ms more")
    );
    world.slow(0, |_| true);
    world.run(20_000);
    assert_eq!(world.ended(), ["round-trip times are as usual"]);
    assert_eq!(world.rebased(), 0);
}

/// A path that takes 60 ms more takes 20 to 100 ms more where acknowledgements are delayed before or after.
#[test]
fn delayed_acknowledgements_hide_a_part_of_an_as_and_not_the_as() {
    let mut world = usual();
    let asn = Asn(64_701);
    world.slow(28, |p| p.origin == asn);
    let clear = [0, 1, 4].map(|i| world.peers[i].key);
    world.slow(80, |p| clear.contains(&p.key));
    world.run(15_000);
    assert_eq!(world.verdict().0, LatencyScope::As { asn });
}

/// Linux goes on to delay acknowledgements that it sent at once before: the path is not slow by that.
#[test]
fn acknowledgements_that_stay_delayed_keep_no_incident_open() {
    let asn = Asn(64_701);
    for (rise, over) in [(150, true), (60, false)] {
        let mut world = usual();
        world.slow(rise, |p| p.origin == asn);
        world.run(20_000);
        assert_eq!(world.verdict().0, LatencyScope::As { asn });
        let delaying = [0, 5].map(|i| world.peers[i].key);
        world.slow(0, |p| !delaying.contains(&p.key));
        world.slow(41, |p| delaying.contains(&p.key));
        world.run(60_000);
        let (ended, rebased) = (world.ended(), world.rebased());
        if over {
            assert_eq!(ended, ["round-trip times are as usual"]);
            assert_eq!(rebased, 2);
            assert_eq!(world.verdicts().len(), 1, "{}", world.story());
        } else {
            assert_eq!((ended.len(), rebased), (0, 0), "{}", world.story());
        }
    }
}

#[test]
fn one_prefix_of_an_as_and_one_peer() {
    let mut world = usual();
    let prefix: Prefix = "203.0.1.0/24".parse().unwrap();
    world.slow(80, |p| p.prefix == prefix);
    world.run(15_000);
    assert_eq!(world.verdict().0, LatencyScope::Prefix { prefix });

    let mut world = usual();
    let peer = world.peers[9].key;
    world.slow(80, |p| p.key == peer);
    world.run(19_000);
    assert!(world.verdicts().is_empty(), "one alone must last");
    world.run(22_000);
    assert_eq!(world.verdict().0, LatencyScope::Peer { peer });
}

#[test]
fn a_queue_before_the_gateway_is_our_own() {
    let mut world = usual();
    world.gateways[0] = ms(120);
    world.rate = 500_000;
    world.slow(120, |p| p.egress == 0);
    world.run(15_000);
    let egress = name(0);
    assert_eq!(
        world.verdict(),
        (LatencyScope::Egress { egress }, LatencyCause::OwnUplink),
        "{}",
        world.story()
    );
    world.gateways[0] = Duration::ZERO;
    world.rate = 20_000;
    world.slow(0, |_| true);
    world.run(25_000);
    assert_eq!(
        world.ended(),
        ["round-trip times fell as this host sent less"]
    );
}

#[test]
fn a_queue_behind_the_gateway_is_our_own_where_we_send_more() {
    let cause = |rate| {
        let mut world = usual();
        world.anchors[0] = ms(120);
        world.rate = rate;
        world.run(12_000);
        world.slow(120, |p| p.egress == 0);
        world.run(17_000);
        let (scope, cause) = world.verdict();
        let egress = name(0);
        assert_eq!(scope, LatencyScope::Egress { egress });
        cause
    };
    assert_eq!(cause(500_000), LatencyCause::OwnUplink);
    assert_eq!(cause(21_000), LatencyCause::Unknown);
}

#[test]
fn an_egress_whose_anchors_are_as_usual_is_not_slow() {
    // All that use the egress happen to live in one AS.
    let mut world = World::new(&[(64_701, 0, 4), (64_701, 0, 4)]);
    world.slow(100, |_| true);
    world.run(15_000);
    let asn = Asn(64_701);
    assert_eq!(world.verdict().0, LatencyScope::As { asn });
}

#[test]
fn all_egresses() {
    let mut world = World::new(&[
        (64_701, 0, 4),
        (64_702, 0, 4),
        (64_703, 1, 4),
        (64_704, 1, 4),
    ]);
    world.anchors = [ms(100); 2];
    world.slow(100, |_| true);
    world.run(15_000);
    assert_eq!(world.verdict().0, LatencyScope::All, "{}", world.story());
}

#[test]
fn a_lasting_shift_after_a_path_change_is_the_new_baseline() {
    // Without a change of the path 38 ms could be delayed acknowledgements.
    for (late, rise, verdicts) in [(0, 38, 1), (4_000, 38, 1), (4_000, 60, 2)] {
        let mut world = usual();
        if late == 0 {
            world.detour(64_701);
        }
        world.slow(rise, |p| p.origin == Asn(64_701));
        world.run(10_000 + late);
        if late > 0 {
            world.detour(64_701);
        }
        world.run(40_000);
        let told = world.verdicts();
        assert_eq!(told.len(), verdicts, "{}", world.story());
        let asn = Asn(64_701);
        let scope = LatencyScope::As { asn };
        let cause = LatencyCause::PathChange;
        assert_eq!(told.last().unwrap().1, Verdict::Latency { scope, cause });
        assert_eq!(
            world.ended(),
            [format!(
                "RTT to 8 peers of AS64701 is {rise} ms more since the path changed to AS64510 AS64666 AS64701; taken as the new baseline"
            )],
        );
        assert_eq!(world.rebased(), 8);
    }
}

#[test]
fn our_own_route_gives_other_times_and_no_incident() {
    let mut world = usual();
    for i in 0..8 {
        world.fib(i, 1);
    }
    world.run(10_300);
    world.slow(60, |p| p.origin == Asn(64_701));
    world.run(30_000);
    assert!(world.verdicts().is_empty(), "{}", world.story());
    assert_eq!(world.rebased(), 8);
}

#[test]
fn lost_packets_explain_slow_ones() {
    let mut world = usual();
    world.slow(90, |p| p.egress == 0);
    world.anchors[0] = ms(90);
    world.run(13_000);
    assert_eq!(world.verdicts().len(), 1);
    let egress = name(0);
    world
        .correlator
        .host(at(world.now), &HostSignal::Carrier { egress, up: false });
    world.run(15_000);
    let last = world.verdicts().last().unwrap().1.clone();
    assert_eq!(last, Verdict::LocalLink { egress: name(0) });
    assert_eq!(world.ended(), ["packets are lost: see run-2"]);
    let incidents = world.correlator.incidents();
    assert_eq!(incidents.len(), 2);
    assert_eq!(incidents[1].related, [incidents[0].id.clone()]);
}

#[test]
fn a_narrow_case_becomes_part_of_a_wider_one() {
    let mut world = usual();
    world.slow(90, |p| p.origin == Asn(64_702));
    world.run(13_000);
    world.anchors[0] = ms(90);
    world.slow(90, |p| p.egress == 0);
    world.run(20_000);
    let scopes: Vec<LatencyScope> = world
        .verdicts()
        .into_iter()
        .map(|(_, verdict)| match verdict {
            Verdict::Latency { scope, .. } => scope,
            other => panic!("{other}"),
        })
        .collect();
    let egress = name(0);
    let asn = Asn(64_702);
    assert_eq!(
        scopes,
        [LatencyScope::As { asn }, LatencyScope::Egress { egress }]
    );
    assert_eq!(world.correlator.incidents().len(), 1, "{}", world.story());
}

#[test]
fn what_is_slow_again_and_again_must_last_longer() {
    let mut world = usual();
    for minute in 0..6 {
        let from = 10_000 + minute * 20_000;
        world.slow(100, |p| p.origin == Asn(64_702));
        world.run(from + 9_000);
        world.slow(0, |_| true);
        world.run(from + 20_000);
    }
    assert!((2..=3).contains(&world.ended().len()), "{}", world.story());
}

/// Peers leave and join, times come and go, in any order: never an action, never more than one case
/// for a peer, and after a restart from a checkpoint the same.
#[test]
fn whatever_happens_only_slowness_is_told() {
    for seed in 0..20_u64 {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = |n: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let mut world = usual();
        let mut copy: Option<Correlator> = None;
        for _ in 0..30 {
            let (n, more) = (draw(5), draw(3) * 60);
            match draw(4) {
                0 => world.slow(more, |p| p.origin == Asn(64_701 + n as u32)),
                1 => world.slow(more, |p| p.egress == (n % 2) as usize),
                2 => {
                    let key = world.peers[draw(24) as usize].key;
                    world.slow(more, |p| p.key == key);
                }
                _ => world.detour(64_701 + n as u32),
            }
            world.run(world.now + 10 * (1 + draw(600)));
            if let Some(copy) = &copy {
                let json = serde_json::to_vec(copy).unwrap();
                let back: Correlator = serde_json::from_slice(&json).unwrap();
                assert_eq!(*copy, back);
            }
            copy = Some(world.correlator.clone());
            let open: Vec<_> = world
                .correlator
                .incidents()
                .into_iter()
                .filter(|incident| incident.resolved_at.is_none())
                .collect();
            assert!(open.len() <= 4);
            for incident in &open {
                assert!(matches!(incident.verdict, Some(Verdict::Latency { .. })));
                let explains: Vec<&PeerKey> = incident
                    .affected
                    .iter()
                    .filter(|p| open.iter().filter(|o| o.affected.contains(p)).count() > 1)
                    .collect();
                assert!(explains.is_empty(), "{explains:?}\n{}", world.story());
            }
        }
        world.slow(0, |_| true);
        world.run(world.now + 10_000);
        let (open, ended) = (world.correlator.incidents(), world.ended().len());
        assert!(open.iter().all(|incident| incident.resolved_at.is_some()));
        let opened = world.out.iter().filter(
            |(_, output)| matches!(output, Output::Journal(e) if e.kind == EntryKind::Onset),
        );
        assert_eq!(opened.count(), ended, "each case has its end");
    }
}
