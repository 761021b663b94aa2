//! The situations that must be told apart, each in many drawn worlds.

mod world;

use std::time::Duration;

use correlator::Output;
use events::{Asn, Conclusion, EntryKind, EvidenceSource, Timestamp, Verdict};
use world::{Fault, Setup, UPSTREAM_A, World, a, b, ms};

/// `CORRELATOR_SEEDS=1000` looks harder.
static SEEDS: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
    std::env::var("CORRELATOR_SEEDS").map_or(10, |n| n.parse().expect("a number of seeds"))
});
const CUT: u64 = 3000;
const NEVER: u64 = 1_000_000;

fn upstream_a() -> Verdict {
    Verdict::UpstreamAs {
        egress: a(),
        asn: Some(UPSTREAM_A),
    }
}

/// Runs a world and expects exactly this verdict, first and last; returns its delay after the cut.
fn expect(setup: Setup, end: u64, verdict: &Verdict) -> (World, Duration) {
    let seed = setup.seed;
    let mut world = World::new(setup);
    world.run(end);
    let verdicts = world.verdicts();
    let told: Vec<&Verdict> = verdicts.iter().map(|(_, v)| v).collect();
    assert_eq!(told, [verdict], "seed {seed}\n{}", world.story());
    let delay = verdicts[0].0.since(ms(CUT));
    (world, delay)
}

fn percentile(mut delays: Vec<Duration>, percent: usize) -> Duration {
    delays.sort_unstable();
    delays[(delays.len() * percent / 100).min(delays.len() - 1)]
}

#[test]
fn upstream_dark_for_egress_with_a_late_withdrawal() {
    let mut delays = Vec::new();
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, 20_000, Fault::Outbound(a()));
        setup.withdraw_at = Some(CUT + 2000);
        setup.noise = seed % 2 == 1;
        let (world, delay) = expect(setup, 19_000, &upstream_a());
        delays.push(delay);
        let (incident, bgp, at) = world
            .outputs
            .iter()
            .filter_map(|(at, o)| match o {
                Output::Conclusion(Conclusion::Updated { incident, bgp }) => {
                    Some((incident, bgp, *at))
                }
                _ => None,
            })
            .next_back()
            .expect("the withdrawal updates the incident");
        assert!(at >= ms(CUT + 2000) && at <= ms(CUT + 2200));
        assert_eq!((bgp.withdrawn, bgp.changed), (8, 0), "{}", bgp.text);
        assert_eq!(bgp.culprit, Some(UPSTREAM_A), "{}", bgp.text);
        assert_eq!(incident.affected.len(), 40);
        assert_eq!(incident.prefixes.len(), 8);
        let onset = incident.onset;
        assert!(
            onset >= ms(CUT - 20) && onset <= ms(CUT + 60),
            "seed {seed}: onset {onset}"
        );
        let lines = world
            .outputs
            .iter()
            .filter(|(_, o)| matches!(o, Output::Journal(e) if e.kind == EntryKind::BgpEvidence))
            .count();
        assert_eq!(lines, 8);
    }
    let worst = percentile(delays.clone(), 100);
    println!("verdict p50 {:?} max {worst:?}", percentile(delays, 50));
    assert!(worst <= Duration::from_millis(250), "{worst:?}");
}

#[test]
fn upstream_dark_without_bgp_change_heals_and_the_reroute_starts_nothing_new() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, 10_000, Fault::Outbound(a()));
        setup.reroute = true;
        setup.noise = true;
        let (world, delay) = expect(setup, 30_000, &upstream_a());
        assert!(
            delay <= Duration::from_millis(250),
            "seed {seed}: {delay:?}\n{}",
            world.story()
        );
        let healed = world.healed();
        assert_eq!(healed.len(), world.suspicions(), "{}", world.story());
        let last = *healed.last().unwrap();
        assert!(
            last >= ms(12_000) && last <= ms(13_000),
            "seed {seed}: {last}\n{}",
            world.story()
        );
    }
}

#[test]
fn inbound_dead_as_well_is_the_return_path() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed)
            .fault(CUT, 10_000, Fault::Outbound(a()))
            .fault(CUT, 10_000, Fault::Inbound(a()));
        setup.inbound = Some(a());
        setup.noise = seed % 2 == 1;
        let (world, delay) = expect(setup, 20_000, &Verdict::ReturnPath { egress: Some(a()) });
        assert!(
            delay <= Duration::from_millis(600),
            "seed {seed}: {delay:?}"
        );
        assert!(world.healed().last().is_some_and(|at| *at >= ms(12_000)));
    }
}

#[test]
fn return_path_alone_looks_the_same() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Inbound(a()));
        setup.inbound = Some(a());
        expect(setup, 8_000, &Verdict::ReturnPath { egress: Some(a()) });
    }
}

#[test]
fn where_some_answers_come_in_elsewhere_the_upstream_is_named() {
    let mut mixed = 0;
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed)
            .fault(CUT, NEVER, Fault::Outbound(a()))
            .fault(CUT, NEVER, Fault::Inbound(a()));
        let mut world = World::new(setup);
        world.run(8_000);
        let verdicts = world.verdicts();
        let last = verdicts.last().map(|(_, v)| v.clone());
        let possible = [upstream_a(), Verdict::ReturnPath { egress: Some(a()) }];
        assert!(
            last.as_ref().is_some_and(|v| possible.contains(v)),
            "{}",
            world.story()
        );
        mixed += u64::from(last == Some(upstream_a()));
    }
    assert!(mixed > *SEEDS / 2);
}

#[test]
fn gateway_dead() {
    let mut delays = Vec::new();
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, 10_000, Fault::Gateway(a()));
        setup.noise = seed % 2 == 1;
        let (world, delay) = expect(setup, 16_000, &Verdict::Gateway { egress: a() });
        delays.push(delay);
        assert!(world.healed().last().is_some_and(|at| *at >= ms(12_000)));
    }
    let worst = percentile(delays, 100);
    assert!(worst <= Duration::from_millis(200), "{worst:?}");
}

#[test]
fn a_gateway_that_answers_no_probes_but_forwards_is_no_incident() {
    for seed in 0..*SEEDS {
        let mut world = World::new(Setup::new(seed).fault(CUT, NEVER, Fault::GatewayMute(a())));
        world.run(15_000);
        assert_eq!(world.verdicts(), [], "{}", world.story());
    }
}

#[test]
fn carrier_lost_is_known_at_once() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed).fault(CUT, 10_000, Fault::Carrier(a()));
        let (world, delay) = expect(setup, 20_000, &Verdict::LocalLink { egress: a() });
        assert!(delay <= Duration::from_millis(5), "{delay:?}");
        let healed = *world.healed().last().unwrap();
        assert!(healed >= ms(12_000) && healed <= ms(14_000), "{healed}");
    }
}

#[test]
fn one_origin_dead() {
    for seed in 0..*SEEDS {
        let origin = Asn(64_700 + (seed % 5) as u32);
        let mut setup = Setup::new(seed).fault(CUT, 12_000, Fault::Origin(origin));
        setup.noise = seed % 2 == 1;
        setup.withdraw_at = Some(CUT + 2000);
        let (world, delay) = expect(setup, 30_000, &Verdict::RemoteAs { asn: origin });
        assert!(delay <= Duration::from_secs(2), "seed {seed}: {delay:?}");
        let incident = world
            .correlator
            .incidents()
            .into_iter()
            .find(|i| i.verdict == Some(Verdict::RemoteAs { asn: origin }))
            .unwrap();
        assert!(incident.resolved_at.is_some(), "{}", world.story());
    }
}

#[test]
fn a_transit_behind_the_upstream_is_a_remote_as() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed).fault(CUT, NEVER, Fault::Transit);
        expect(
            setup,
            8_000,
            &Verdict::RemoteAs {
                asn: world::TRANSIT,
            },
        );
    }
}

#[test]
fn one_prefix_dead_while_its_origin_works() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed).fault(CUT, NEVER, Fault::Prefix(0));
        let prefix = "203.0.0.0/24".parse().unwrap();
        expect(setup, 8_000, &Verdict::Prefix { prefix });
    }
}

#[test]
fn one_peer_dead() {
    for seed in 0..*SEEDS {
        let dead = (seed % 40) as usize;
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Peer(dead));
        setup.noise = seed % 2 == 1;
        let world = World::new(setup.clone());
        let peer = events::PeerKey(world.peers[dead].address);
        let (_, delay) = expect(setup, 10_000, &Verdict::SinglePeer { peer });
        assert!(delay >= Duration::from_millis(300));
    }
}

#[test]
fn a_sudden_delay_is_no_partition() {
    for seed in 0..*SEEDS {
        // Up to the allowance for one egress; where both show it, longer.
        let one = Fault::SlowEgress(a(), Duration::from_millis(20 + 2 * (seed % 48)));
        let both = Fault::Slow(Duration::from_millis(50 + 5 * (seed % 40)));
        for fault in [one, both] {
            let mut world = World::new(Setup::new(seed).fault(CUT, 6_000, fault.clone()));
            world.run(12_000);
            assert_eq!(
                world.verdicts(),
                [],
                "seed {seed} {fault:?}\n{}",
                world.story()
            );
        }
    }
}

#[test]
fn without_probes_tcp_alone_reaches_the_verdict() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, 10_000, Fault::Outbound(a()));
        setup.probes = false;
        setup.noise = seed % 2 == 1;
        let (world, delay) = expect(setup, 40_000, &upstream_a());
        assert!(delay <= Duration::from_millis(800), "{delay:?}");
        assert!(!world.healed().is_empty());
    }
}

#[test]
fn without_probes_narrow_failures_stay_narrow() {
    for seed in 0..*SEEDS {
        let origin = Asn(64_700 + (seed % 5) as u32);
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Origin(origin));
        setup.probes = false;
        expect(setup, 8_000, &Verdict::RemoteAs { asn: origin });
    }
}

#[test]
fn without_ebpf_probes_alone_reach_the_verdict() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, 10_000, Fault::Outbound(a()));
        setup.ebpf = false;
        setup.noise = seed % 2 == 1;
        let (world, delay) = expect(setup, 16_000, &upstream_a());
        assert!(delay <= Duration::from_millis(400), "{delay:?}");
        assert!(world.healed().last().is_some_and(|at| *at >= ms(12_000)));
    }
}

#[test]
fn nothing_at_all_for_a_minute() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed);
        setup.noise = true;
        let mut world = World::new(setup);
        world.run(60_000);
        assert_eq!(world.verdicts(), [], "seed {seed}\n{}", world.story());
    }
}

#[test]
fn total_isolation_and_a_backup_that_returns() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed)
            .fault(CUT, NEVER, Fault::Outbound(a()))
            .fault(CUT, 8_000, Fault::Outbound(b()));
        setup.inbound = Some(b());
        let mut world = World::new(setup);
        world.run(7_900);
        let verdicts = world.verdicts();
        assert_eq!(verdicts.len(), 1, "{}", world.story());
        assert_eq!(verdicts[0].1, Verdict::TotalIsolation, "{}", world.story());
        world.run(12_000);
        assert_eq!(
            world.verdicts().last().map(|(_, v)| v.clone()),
            Some(upstream_a()),
            "{}",
            world.story()
        );
    }
}

#[test]
fn a_stalled_host_does_not_blame_the_network() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed);
        setup.stall = Some((CUT, CUT + 150 + seed * 20));
        let mut world = World::new(setup);
        world.run(12_000);
        for (_, verdict) in world.verdicts() {
            assert_eq!(verdict, Verdict::HostStall, "{}", world.story());
        }
        let open = world.correlator.incidents();
        assert!(
            open.iter().all(|i| i.resolved_at.is_some()),
            "{}",
            world.story()
        );
    }
}

#[test]
fn a_slow_chain_is_covered_by_probes() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.gap = 2000;
        // Where by chance no peer sends, probes alone need six misses.
        let (_, delay) = expect(setup, 9_000, &upstream_a());
        assert!(delay <= Duration::from_millis(600), "{delay:?}");
    }
}

#[test]
fn few_peers_behind_sentries() {
    for seed in 0..*SEEDS {
        for peers in [2, 4] {
            let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
            setup.peers = peers;
            expect(setup, 9_000, &upstream_a());
        }
    }
}

#[test]
fn only_ipv6_dark() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::OutboundV6(a()));
        setup.anchors = 6;
        let (world, _) = expect(
            setup,
            9_000,
            &Verdict::AddressFamily {
                egress: a(),
                ipv6: true,
            },
        );
        let incident = world.correlator.incidents().pop().unwrap();
        assert!(incident.affected.iter().all(|p| p.0.is_ipv6()));
        assert_eq!(incident.affected.len(), 15);
    }
}

#[test]
fn a_lost_session_makes_paths_stale_not_withdrawn() {
    let mut setup = Setup::new(7).fault(CUT, NEVER, Fault::Outbound(a()));
    setup.session_down_at = Some(CUT + 1000);
    let (world, _) = expect(setup, 9_000, &upstream_a());
    let bgp = world
        .outputs
        .iter()
        .filter_map(|(_, o)| match o {
            Output::Conclusion(Conclusion::Updated { bgp, .. }) => Some(bgp.clone()),
            _ => None,
        })
        .next_back()
        .unwrap();
    assert_eq!((bgp.withdrawn, bgp.changed, bgp.culprit), (0, 0, None));
    assert!(bgp.text.contains("session lost"), "{}", bgp.text);
}

#[test]
fn the_same_inputs_give_the_same_outputs_also_after_a_checkpoint() {
    let setup = Setup::new(3).fault(CUT, 8_000, Fault::Outbound(a()));
    let mut whole = World::new(setup.clone());
    whole.run(12_000);
    let mut halves = World::new(setup);
    halves.run(CUT + 100);
    let saved = serde_json::to_string(&halves.correlator).unwrap();
    halves.correlator = serde_json::from_str(&saved).unwrap();
    halves.run(12_000);
    assert_eq!(whole.outputs, halves.outputs);
    assert!(!whole.verdicts().is_empty());
}

#[test]
fn an_idle_correlator_asks_for_nothing() {
    let mut setup = Setup::new(1);
    setup.ebpf = false;
    setup.probes = false;
    setup.bgp = false;
    let mut world = World::new(setup);
    world.run(60_000);
    assert!(world.timeouts < 10, "{}", world.timeouts);
    assert_eq!(world.outputs.len(), 1);
    assert!(world.outputs.iter().all(|(at, _)| *at == Timestamp::ZERO));
}

#[test]
fn a_backup_that_dies_idle_is_named_and_nobody_is_affected() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed).fault(CUT, 8_000, Fault::Outbound(b()));
        let verdict = Verdict::UpstreamAs {
            egress: b(),
            asn: Some(world::UPSTREAM_B),
        };
        let (world, _) = expect(setup, 12_000, &verdict);
        let incident = world.correlator.incidents().pop().unwrap();
        assert!(incident.affected.is_empty());
        assert!(incident.resolved_at.is_some());
    }
}

#[test]
fn the_primary_dies_while_the_backup_is_dead_already() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed)
            .fault(2_000, NEVER, Fault::Gateway(b()))
            .fault(12_000, NEVER, Fault::Outbound(a()));
        setup.inbound = Some(a());
        let mut world = World::new(setup);
        world.run(20_000);
        let verdicts: Vec<Verdict> = world.verdicts().into_iter().map(|(_, v)| v).collect();
        let expected = [Verdict::Gateway { egress: b() }, Verdict::TotalIsolation];
        assert_eq!(verdicts, expected, "{}", world.story());
    }
}

#[test]
fn a_backup_that_refuses_the_flows_source_still_locates_the_break() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.flow_via_backup = false;
        expect(setup, 9_000, &upstream_a());
    }
}

#[test]
fn a_single_egress_names_the_place() {
    for seed in 0..*SEEDS {
        for (fault, verdict) in [
            (Fault::Outbound(a()), upstream_a()),
            (Fault::Gateway(a()), Verdict::Gateway { egress: a() }),
            (Fault::Carrier(a()), Verdict::LocalLink { egress: a() }),
        ] {
            let mut setup = Setup::new(seed).fault(CUT, NEVER, fault);
            setup.egresses = 1;
            setup.inbound = Some(a());
            expect(setup, 9_000, &verdict);
        }
    }
}

#[test]
fn without_any_configuration_peers_alone_are_told_apart() {
    for seed in 0..*SEEDS {
        for fib in [true, false] {
            let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
            setup.egresses = 0;
            setup.probes = false;
            setup.bgp = false;
            setup.fib = fib;
            setup.anchors = 0;
            let name = if fib { "wan-a" } else { "default" };
            let verdict = Verdict::UpstreamAs {
                egress: name.into(),
                asn: None,
            };
            let (world, _) = expect(setup.clone(), 9_000, &verdict);
            drop(world);
            setup.faults.clear();
            setup.faults.push((CUT, NEVER, Fault::Prefix(1)));
            let prefix = "203.0.1.0/24".parse().unwrap();
            expect(setup, 9_000, &Verdict::Prefix { prefix });
        }
    }
}

#[test]
fn one_anchor_alone_never_decides() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.anchors = 1;
        let (_, delay) = expect(setup, 9_000, &upstream_a());
        assert!(delay <= Duration::from_millis(800), "{delay:?}");
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.anchors = 1;
        setup.ebpf = false;
        let mut world = World::new(setup);
        world.run(9_000);
        assert_eq!(world.verdicts(), []);
    }
}

#[test]
fn bgp_may_come_first() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.withdraw_at = Some(CUT - 1000);
        let mut world = World::new(setup);
        world.run(9_000);
        let incident = world.correlator.incidents().pop().unwrap();
        assert!(matches!(incident.verdict, Some(Verdict::UpstreamAs { .. })));
        assert_eq!(incident.first_evidence, EvidenceSource::Bgp);
        let told = world.outputs.iter().find_map(|(_, o)| match o {
            Output::Conclusion(Conclusion::Confirmed { bgp, .. }) => Some(bgp.clone()),
            _ => None,
        });
        assert_eq!(told.unwrap().withdrawn, 8);
    }
}

#[test]
fn a_failed_neighbour_without_probes_is_the_link() {
    let mut setup = Setup::new(5).fault(CUT, NEVER, Fault::Gateway(a()));
    setup.probes = false;
    setup.ebpf = false;
    setup.inbound = Some(a());
    setup.neighbor_failed_at = Some(CUT + 3000);
    expect(setup, 9_000, &Verdict::LocalLink { egress: a() });
}

#[test]
fn lost_observations_make_it_slower_not_blind() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Outbound(a()));
        setup.lost_at = Some(CUT - 10);
        let (_, delay) = expect(setup, 9_000, &upstream_a());
        assert!(delay <= Duration::from_millis(400), "{delay:?}");
    }
}

#[test]
fn two_small_failures_are_two_incidents() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed)
            .fault(CUT, NEVER, Fault::Origin(Asn(64_703)))
            .fault(CUT + 4000, NEVER, Fault::Prefix(0));
        let mut world = World::new(setup);
        world.run(12_000);
        let verdicts: Vec<Verdict> = world.verdicts().into_iter().map(|(_, v)| v).collect();
        let prefix = "203.0.0.0/24".parse().unwrap();
        let expected = [
            Verdict::RemoteAs { asn: Asn(64_703) },
            Verdict::Prefix { prefix },
        ];
        assert_eq!(verdicts, expected, "{}", world.story());
    }
}

#[test]
fn a_wide_outage_during_a_small_one_is_its_own_incident() {
    for seed in 0..*SEEDS {
        let setup = Setup::new(seed)
            .fault(CUT, NEVER, Fault::Origin(Asn(64_704)))
            .fault(CUT + 5000, NEVER, Fault::Outbound(a()));
        let mut world = World::new(setup);
        world.run(14_000);
        let verdicts: Vec<Verdict> = world.verdicts().into_iter().map(|(_, v)| v).collect();
        let expected = [Verdict::RemoteAs { asn: Asn(64_704) }, upstream_a()];
        assert_eq!(verdicts, expected, "{}", world.story());
        assert!(world.verdicts()[1].0 <= ms(CUT + 5250));
    }
}

/// The uplink's queue grows faster than time passes: answers come ever later, and nothing is lost.
#[test]
fn a_queue_that_grows_is_waited_for() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed);
        for step in 0..25 {
            let queue = Duration::from_millis((step + 1) * 10);
            setup = setup.fault(CUT + 4 * step, CUT + 2_000, Fault::SlowEgress(a(), queue));
        }
        let mut world = World::new(setup);
        world.run(6_000);
        let wide = |v: &Verdict| !matches!(v, Verdict::Latency { .. });
        let wrong = world.verdicts().into_iter().any(|(_, v)| wide(&v));
        assert!(!wrong, "seed {seed}\n{}", world.story());
    }
}

/// Where answers queue up in front of what then breaks they still come for a while: late, and no more.
#[test]
fn a_break_behind_a_long_queue_is_found() {
    let queue = Duration::from_millis(300);
    for seed in 0..*SEEDS {
        for both_ways in [false, true] {
            let mut setup = Setup::new(seed)
                .fault(CUT - 600, CUT, Fault::SlowEgress(a(), queue))
                .fault(CUT, NEVER, Fault::Outbound(a()));
            setup.inbound = Some(b());
            if both_ways {
                setup = setup.fault(CUT, NEVER, Fault::Inbound(a()));
            }
            let mut world = World::new(setup);
            world.run(6_000);
            let verdicts = world.verdicts();
            let (at, last) = verdicts.last().expect("found");
            assert_eq!(*last, upstream_a(), "seed {seed}\n{}", world.story());
            assert!(*at <= ms(CUT + 1_300), "{at}");
        }
    }
}

/// All that fails lies behind one AS, and many others do not fail: it is not the upstream, although the
/// only anchor that is not behind it is too far to tell yet.
#[test]
fn a_popular_as_is_not_taken_for_the_upstream() {
    for seed in 0..*SEEDS {
        let mut setup = Setup::new(seed).fault(CUT, NEVER, Fault::Transit);
        setup.transit_from = 1;
        setup.anchors_behind = 2;
        let mut world = World::new(setup);
        world.anchors[2].2 = Duration::from_millis(400);
        world.run(6_000);
        let verdicts: Vec<Verdict> = world.verdicts().into_iter().map(|(_, v)| v).collect();
        let expected = [Verdict::RemoteAs {
            asn: world::TRANSIT,
        }];
        assert_eq!(verdicts, expected, "seed {seed}\n{}", world.story());
    }
}
