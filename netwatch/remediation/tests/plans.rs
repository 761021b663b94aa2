//! Which routes a verdict leads to, and which never.

mod common;

use std::time::Duration;

use common::{
    ANCHORS, ONSET, PEERS, World, default_entry, entry, ip, ms, peer, policy, prefix, upstream,
};
use events::{
    Asn, ConnectionId, EntryKind, HostSignal, PlanMode, ProbeSource, RouteSpec, Signal, SignalKind,
    Verdict,
};
use remediation::{Output, Policy, Refusal, RemediationStatus, check};

const ALL: [usize; 6] = [0, 1, 2, 3, 4, 5];

/// Anchors are proven after the onset, then the verdict comes.
fn decided(policy: Policy, verdict: Verdict, affected: &[usize]) -> World {
    let mut world = World::new(policy);
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", verdict, affected);
    world
}

#[test]
fn a_broken_egress_moves_the_covering_prefixes_at_once() {
    for verdict in [
        upstream(),
        Verdict::Gateway { egress: "a".into() },
        Verdict::LocalLink { egress: "a".into() },
    ] {
        let world = decided(policy(), verdict, &[0, 4]);
        assert_eq!(
            world.routes(),
            [
                ("198.18.0.0/20".to_owned(), 50),
                ("198.19.0.0/16".to_owned(), 50),
                ("203.0.113.0/24".to_owned(), 50),
                ("2001:db8:5::/48".to_owned(), 50),
                ("2001:db8:6::/48".to_owned(), 50),
            ]
        );
        let plan = world.installs()[0];
        for route in &plan.routes {
            let ipv6 = route.prefix.addr().is_ipv6();
            let (gateway, source) = if ipv6 {
                ("2001:db8:b::1", common::SOURCE6)
            } else {
                ("192.0.3.1", common::SOURCE)
            };
            assert_eq!(route.interface, "wan-b");
            assert_eq!(route.gateway, ip(gateway));
            assert_eq!(route.source, ip(source));
            assert_eq!(route.table, 254);
        }
        assert_eq!(world.statuses(), [RemediationStatus::Installing]);
    }
}

/// The validator restarts: its connections go and come back. Who is watched stays the same, so
/// nobody tells its peers' routes again.
#[test]
fn peers_that_reconnect_are_moved_as_before() {
    let restarted = |watched: &[usize]| {
        let mut world = World::new(policy());
        for index in ALL {
            let down = Signal {
                at: ms(ONSET - 4_000),
                peer: peer(index),
                kind: SignalKind::PeerDown,
            };
            world
                .remediator
                .signal(ms(ONSET - 4_000), &down, &mut world.out);
        }
        let watched: Vec<_> = watched.iter().map(|n| (peer(*n), None)).collect();
        world.remediator.watch(&watched);
        world.at(ONSET + 100).anchors(true);
        world.at(ONSET + 150).confirm("i", upstream(), &ALL);
        world.routes().len()
    };
    assert_eq!(restarted(&ALL), 5);
    assert_eq!(restarted(&[]), 0, "nothing is known of who is not watched");
}

#[test]
fn the_plan_is_written_before_it_is_carried_out() {
    let world = decided(policy(), upstream(), &ALL);
    let planned = world.out.iter().position(
        |o| matches!(o, Output::Journal(e) if matches!(e.kind, EntryKind::Planned { .. })),
    );
    let install = world
        .out
        .iter()
        .position(|o| matches!(o, Output::Effect(events::Effect::Install(_))));
    assert!(planned.is_some() && planned < install);
}

#[test]
fn verdicts_that_permit_no_route() {
    for (verdict, said) in [
        (
            Verdict::SinglePeer {
                peer: common::peer(0),
            },
            "one peer",
        ),
        (Verdict::ReturnPath { egress: None }, "return path"),
        (Verdict::HostStall, "stalled"),
        (Verdict::TotalIsolation, "every egress is dead"),
        (Verdict::None, "no fault"),
    ] {
        let mut world = decided(policy(), verdict.clone(), &ALL);
        world.run(ONSET + 5_000, true);
        assert!(world.installs().is_empty(), "{verdict:?}");
        assert_eq!(world.statuses().len(), 1);
        assert!(world.last_status().starts_with("nothing: "), "{verdict:?}");
        assert!(
            world.last_status().contains(said),
            "{}",
            world.last_status()
        );
    }
}

#[test]
fn what_wins_the_fib() {
    // Entry that the FIB holds for peer 2 (198.18.7.1) and 4 (IPv6), and what is installed.
    type Case = (usize, &'static str, u32, &'static [(&'static str, u32)]);
    let cases: &[Case] = &[
        (2, "0.0.0.0/0", 100, &[("198.18.0.0/20", 50)]),
        (2, "198.18.0.0/15", 0, &[("198.18.0.0/20", 50)]),
        // The FIB holds that very prefix.
        (2, "198.18.0.0/20", 100, &[("198.18.0.0/20", 50)]),
        (2, "198.18.0.0/20", 50, &[("198.18.0.0/20", 49)]),
        (2, "198.18.0.0/20", 1, &[("198.18.0.0/20", 0)]),
        (
            2,
            "198.18.0.0/20",
            0,
            &[("198.18.0.0/21", 50), ("198.18.8.0/21", 50)],
        ),
        // The FIB is more specific than BGP.
        (2, "198.18.7.0/24", 20, &[("198.18.7.0/24", 19)]),
        (2, "198.18.7.1/32", 20, &[("198.18.7.1/32", 19)]),
        // Nothing is lower than 0, nor longer than a host.
        (2, "198.18.7.1/32", 0, &[]),
        // IPv6: 1024 is the default, 1 the lowest.
        (4, "2001:db8:5::/48", 1024, &[("2001:db8:5::/48", 50)]),
        (4, "2001:db8:5::/48", 2, &[("2001:db8:5::/48", 1)]),
        (
            4,
            "2001:db8:5::/48",
            1,
            &[("2001:db8:5::/49", 50), ("2001:db8:5:8000::/49", 50)],
        ),
    ];
    for (index, held, metric, expected) in cases {
        let mut world = World::bare(policy());
        world.fib(*index, entry(held, *metric));
        world.bgp(*index, "b");
        world.at(ONSET + 100).anchors(true);
        world.at(ONSET + 150).confirm("i", upstream(), &[*index]);
        let expected: Vec<_> = expected
            .iter()
            .map(|(p, m)| ((*p).to_owned(), *m))
            .collect();
        assert_eq!(world.routes(), expected, "{held} metric {metric}");
        if expected.is_empty() {
            assert!(
                world.last_status().starts_with("refused"),
                "{}",
                world.last_status()
            );
        }
    }
}

#[test]
fn routes_go_into_the_table_that_the_flow_uses() {
    let mut world = World::bare(policy());
    let mut route = entry("0.0.0.0/0", 0).unwrap();
    route.table = 1_000;
    world.fib(0, Some(route));
    world.bgp(0, "b");
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &[0]);
    assert_eq!(world.installs()[0].routes[0].table, 1_000);
}

#[test]
fn without_bgp_hosts_are_routed_up_to_the_cap() {
    let mut world = World::bare(Policy {
        max_routes: 3,
        ..policy()
    });
    for index in [0, 1, 4] {
        world.fib(index, default_entry(PEERS[index].0));
    }
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &[0, 1, 4]);
    let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
    assert_eq!(
        routes,
        ["203.0.113.7/32", "203.0.113.9/32", "2001:db8:5::7/128"]
    );

    let mut world = World::bare(Policy {
        max_routes: 2,
        ..policy()
    });
    for index in [0, 1, 4] {
        world.fib(index, default_entry(PEERS[index].0));
    }
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &[0, 1, 4]);
    assert!(world.installs().is_empty());
    assert!(
        world.last_status().contains("max_routes = 2"),
        "{}",
        world.last_status()
    );
}

#[test]
fn beyond_the_cap_only_affected_peers_are_moved() {
    let world = decided(
        Policy {
            max_routes: 2,
            ..policy()
        },
        upstream(),
        &[0, 3],
    );
    let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
    assert_eq!(routes, ["198.19.0.0/16", "203.0.113.0/24"]);
}

#[test]
fn a_covering_prefix_that_is_not_allowed_becomes_a_host_route() {
    let mut allowed = policy();
    allowed.allowed = vec![prefix("198.18.7.0/24")];
    let world = decided(allowed, upstream(), &[2]);
    assert_eq!(world.routes(), [("198.18.7.1/32".to_owned(), 50)]);

    let mut protected = policy();
    protected.protected.push(prefix("198.18.1.1/32"));
    let world = decided(protected, upstream(), &[2]);
    assert!(world.routes().contains(&("198.18.7.1/32".to_owned(), 50)));
    assert!(!world.routes().contains(&("198.18.0.0/20".to_owned(), 50)));
}

#[test]
fn nothing_allowed_means_nothing_done() {
    let mut policy = policy();
    policy.allowed.clear();
    let world = decided(policy, upstream(), &ALL);
    assert!(world.installs().is_empty());
    assert!(
        world.last_status().contains("failover.prefixes"),
        "{}",
        world.last_status()
    );
}

#[test]
fn without_proof_it_waits_asks_and_then_refuses() {
    let mut world = World::new(policy());
    // Proof from before the onset is none; nor is the uplink's own address.
    world.at(ONSET - 10).anchors(true);
    world.at(ONSET + 50);
    for (anchor, _) in ANCHORS {
        world.probe("b", anchor, ProbeSource::Link, true);
        world.probe("a", anchor, ProbeSource::Flow, true);
    }
    world.at(ONSET + 100).confirm("i", upstream(), &ALL);
    assert_eq!(world.probes_asked(), 1);
    assert!(world.statuses().is_empty());
    world.at(ONSET + 1_099);
    assert!(world.statuses().is_empty());
    world.at(ONSET + 1_100);
    assert!(world.installs().is_empty());
    assert_eq!(
        world.last_status(),
        "refused: backup not proven with the flows' source"
    );
    assert_eq!(world.probes_asked(), 1);
    // Late proof with the next update is not too late, once the primary had the time to answer as well.
    world.at(ONSET + 2_000).anchors(true);
    world.at(ONSET + 2_100).confirm("i", upstream(), &ALL);
    assert!(world.installs().is_empty());
    world.at(ONSET + 2_700).confirm("i", upstream(), &ALL);
    assert_eq!(world.installs().len(), 1);
}

#[test]
fn without_probes_it_refuses_at_once() {
    let policy = Policy {
        probes: false,
        ..policy()
    };
    let world = decided(policy, upstream(), &[0, 1]);
    assert_eq!(
        world.last_status(),
        "refused: probes are off, so no backup can be proven"
    );
}

#[test]
fn proof_that_comes_while_waiting_is_used_when_it_comes() {
    let mut world = World::new(policy());
    world.at(ONSET + 100).confirm("i", upstream(), &ALL);
    world.at(ONSET + 300);
    world.probe("b", ANCHORS[0].0, ProbeSource::Flow, true);
    assert!(world.installs().is_empty(), "one anchor is not enough");
    world.at(ONSET + 320);
    world.probe("b", ANCHORS[1].0, ProbeSource::Flow, true);
    world.at(ONSET + 325);
    assert_eq!(world.installs().len(), 1);
    // IPv6 is not proven by IPv4.
    assert!(world.routes().iter().all(|(p, _)| !p.contains(':')));
    // It follows with the next update, once it is.
    world.at(ONSET + 400).anchors(true);
    world.confirm("i", upstream(), &ALL);
    assert_eq!(world.installs().len(), 2);
    assert!(world.routes().iter().all(|(p, _)| p.contains(':')));
}

#[test]
fn a_dead_way_back_is_named_and_nothing_is_installed() {
    let mut world = World::new(policy());
    for at in [20, 40, 60] {
        world.at(ONSET + at).anchors(false);
        for (peer, ..) in PEERS {
            world.probe("b", peer, ProbeSource::Flow, false);
            world.probe("b", peer, ProbeSource::Link, true);
        }
    }
    world.at(ONSET + 100).confirm("i", upstream(), &ALL);
    world.at(ONSET + 200);
    assert!(world.installs().is_empty());
    assert!(
        world.last_status().starts_with("refused: return path"),
        "{}",
        world.last_status()
    );
}

#[test]
fn only_prefixes_whose_way_back_is_alive_are_moved() {
    let mut world = World::new(policy());
    for at in [20, 40, 60] {
        world.at(ONSET + at).anchors(true);
        world.probe("b", PEERS[0].0, ProbeSource::Flow, true);
        world.probe("b", PEERS[3].0, ProbeSource::Flow, false);
    }
    world.at(ONSET + 100).confirm("i", upstream(), &[0, 2, 3]);
    let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
    // 198.18/20 by its origin's proof; 198.19/16 tested and dead; of IPv6 nothing is known to fail.
    assert_eq!(routes, ["198.18.0.0/20", "203.0.113.0/24"]);
}

#[test]
fn a_remote_as_needs_proof_of_its_own() {
    let verdict = Verdict::RemoteAs { asn: Asn(64601) };
    let mut world = decided(policy(), verdict.clone(), &[0, 2, 3]);
    assert!(
        world.installs().is_empty(),
        "anchors elsewhere prove nothing here"
    );
    world.at(ONSET + 200);
    world.probe("b", PEERS[0].0, ProbeSource::Flow, true);
    world.at(ONSET + 230);
    assert_eq!(world.routes(), [], "it may answer through a as well");
    silent_here(&mut world, ONSET + 230, PEERS[0].0);
    assert_eq!(world.routes(), [], "its answer through a may be on its way");
    world.at(ONSET + 310);
    let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
    assert_eq!(
        routes,
        ["203.0.113.0/24"],
        "its origin's other prefix may be dead"
    );

    let verdict = Verdict::Prefix {
        prefix: prefix("198.18.0.0/20"),
    };
    let mut world = decided(policy(), verdict, &[0, 2]);
    world.at(ONSET + 200);
    world.probe("b", PEERS[2].0, ProbeSource::Flow, true);
    silent_here(&mut world, ONSET + 200, PEERS[2].0);
    world.at(ONSET + 310);
    assert_eq!(world.routes(), [("198.18.0.0/20".to_owned(), 50)]);
}

/// Two probes of a target through the primary are lost.
fn silent_here(world: &mut World, from: u64, target: &str) {
    for at in [from, from + 15] {
        world.at(at);
        world.probe("a", target, ProbeSource::Flow, false);
    }
}

#[test]
fn who_answers_the_uplinks_own_address_through_the_primary_stays() {
    let mut world = World::new(policy());
    world.at(ONSET + 40).anchors(true);
    world.at(ONSET + 60).anchors(true);
    world.probe("a", PEERS[3].0, ProbeSource::Link, true);
    world.at(ONSET + 100).confirm("i", upstream(), &[0, 3]);
    world.at(ONSET + 300);
    let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
    assert!(!routes.contains(&"198.19.0.0/16".to_owned()), "{routes:?}");
    assert!(routes.contains(&"203.0.113.0/24".to_owned()), "{routes:?}");
}

#[test]
fn what_failed_before_the_egress_is_not_moved_without_proof_of_its_own() {
    for (since, stays) in [(ONSET - 300, true), (ONSET - 50, false)] {
        let mut world = World::new(policy());
        for (anchor, _) in ANCHORS {
            world.at(ONSET - 20);
            world.probe("a", anchor, ProbeSource::Flow, true);
        }
        let signal = Signal {
            at: ms(world.now),
            peer: peer(3),
            kind: SignalKind::AckOverdue {
                connection: ConnectionId(3),
                since: ms(since),
                limit: Duration::from_millis(100),
            },
        };
        let now = ms(world.now);
        world.remediator.signal(now, &signal, &mut world.out);
        world.at(ONSET + 40).anchors(true);
        world.at(ONSET + 60).anchors(true);
        world.at(ONSET + 100).confirm("i", upstream(), &[0, 3]);
        world.at(ONSET + 300);
        let routes: Vec<_> = world.routes().into_iter().map(|(p, _)| p).collect();
        let moved = routes.contains(&"198.19.0.0/16".to_owned());
        assert_eq!(moved, !stays, "{routes:?}");
    }
}

#[test]
fn an_egress_whose_anchors_answer_what_was_sent_after_the_verdict_is_not_left() {
    let mut world = World::new(policy());
    world.at(ONSET + 100).confirm("i", upstream(), &[0, 3]);
    for at in [200, 220] {
        for (anchor, _) in ANCHORS {
            world.at(ONSET + at);
            world.probe("a", anchor, ProbeSource::Flow, true);
        }
    }
    world.at(ONSET + 240).anchors(true);
    world.at(ONSET + 260).anchors(true);
    world.at(ONSET + 400);
    assert_eq!(world.routes(), []);
}

#[test]
fn a_dead_backup_is_no_backup() {
    let mut world = World::new(policy());
    for at in [20, 40, 60] {
        world.at(ONSET + at);
        world.probe("b", "192.0.3.1", ProbeSource::Link, false);
        world.probe("b", "2001:db8:b::1", ProbeSource::Link, false);
    }
    world.anchors(true);
    world.at(ONSET + 100).confirm("i", upstream(), &ALL);
    world.at(ONSET + 200);
    assert!(world.installs().is_empty());
    assert!(
        world.last_status().contains("no backup"),
        "{}",
        world.last_status()
    );

    let mut world = World::new(policy());
    let carrier = HostSignal::Carrier {
        egress: "b".into(),
        up: false,
    };
    world.at(ONSET + 20).anchors(true);
    let now = common::ms(world.now);
    world.remediator.host(now, &carrier, &mut world.out);
    world.at(ONSET + 100).confirm("i", upstream(), &ALL);
    world.at(ONSET + 200);
    assert!(
        world.last_status().contains("no backup"),
        "{}",
        world.last_status()
    );
}

#[test]
fn the_second_choice_serves_where_the_first_is_not_proven() {
    let mut three = policy();
    let mut third = three.egresses[1].clone();
    third.name = "c".into();
    third.interface = "wan-c".to_owned();
    third.gateways = vec![ip("192.0.4.1")];
    three.egresses.push(third);
    let mut world = World::new(three);
    for at in [20, 40, 60] {
        world.at(ONSET + at).anchors(false);
        for (anchor, _) in &ANCHORS[..2] {
            world.probe("c", anchor, ProbeSource::Flow, true);
        }
    }
    world.at(ONSET + 100).confirm("i", upstream(), &[0]);
    // Nothing in the prefix was tested through `b`, so only `settle` is waited for.
    world.at(ONSET + 200);
    assert!(
        world.installs()[0]
            .routes
            .iter()
            .all(|r| r.interface == "wan-c")
    );
}

#[test]
fn peers_of_other_egresses_and_foreign_sources_are_left_alone() {
    let mut world = World::new(policy());
    for (index, (address, ..)) in PEERS.iter().enumerate() {
        let mut route = default_entry(address).unwrap();
        route.egress = Some("b".into());
        world.fib(index, Some(route));
    }
    world.at(ONSET + 100).anchors(true);
    world.confirm("i", upstream(), &ALL);
    assert!(
        world.last_status().starts_with("nothing: no watched peer"),
        "{}",
        world.last_status()
    );

    let mut foreign = policy();
    foreign.flow_sources = vec![ip("198.51.100.99")];
    let world = decided(foreign, upstream(), &[0]);
    assert!(world.installs().is_empty());
    assert!(
        world.last_status().contains("probe.flow_sources"),
        "{}",
        world.last_status()
    );
}

#[test]
fn shadow_mode_says_the_same_routes_and_installs_none() {
    let act = decided(policy(), upstream(), &ALL);
    let mut shadow = decided(
        Policy {
            mode: PlanMode::Shadow,
            ..policy()
        },
        upstream(),
        &ALL,
    );
    assert!(shadow.installs().is_empty());
    let planned = |world: &World| {
        world.journal().iter().find_map(|kind| match kind {
            EntryKind::Planned { routes, .. } => Some(routes.clone()),
            _ => None,
        })
    };
    assert!(planned(&act).is_some());
    assert_eq!(planned(&act), planned(&shadow));
    let status = shadow.last_status();
    let way = "198.18.0.0/20, 198.19.0.0/16, 203.0.113.0/24 via 192.0.3.1 dev wan-b";
    assert!(
        status.starts_with("shadow: would install ") && status.contains(way),
        "{status}"
    );
    shadow.run(ONSET + 20_000, true);
    shadow.confirm("i", upstream(), &ALL);
    assert_eq!(shadow.statuses().len(), 1);
    assert!(shadow.reverts().is_empty());
}

#[test]
fn the_check_refuses_each_broken_rule() {
    let good = {
        let world = decided(policy(), upstream(), &[0]);
        world.installs()[0].clone()
    };
    let mut facts = remediation::Facts::default();
    let proof = events::ProbeResult {
        sent_at: common::ms(ONSET + 10),
        egress: "b".into(),
        target: events::ProbeTarget::Anchor(ip(ANCHORS[0].0)),
        source: ProbeSource::Flow,
        source_address: ip(common::SOURCE),
        outcome: events::ProbeOutcome::Reply {
            rtt: std::time::Duration::from_millis(1),
        },
    };
    facts.probes.record(&proof);
    let onset = common::ms(ONSET);
    let route = good
        .routes
        .iter()
        .find(|r| r.prefix == prefix("203.0.113.0/24"))
        .unwrap();
    let with = |change: &dyn Fn(&mut RouteSpec)| {
        let mut plan = good.clone();
        plan.routes = vec![route.clone()];
        change(&mut plan.routes[0]);
        check(&plan, onset, &policy(), &facts)
    };
    assert_eq!(with(&|_| {}), Ok(()));
    type Broken<'a> = (&'a dyn Fn(&mut RouteSpec), fn(&Refusal) -> bool);
    let refused: Vec<Broken<'_>> = vec![
        (&|r| r.prefix = prefix("0.0.0.0/0"), |e| {
            matches!(e, Refusal::Default { .. })
        }),
        (&|r| r.prefix = prefix("128.0.0.0/1"), |e| {
            matches!(e, Refusal::Default { .. })
        }),
        (&|r| r.prefix = prefix("2000::/3"), |e| {
            matches!(e, Refusal::Default { .. })
        }),
        (&|r| r.prefix = prefix("8.8.8.0/24"), |e| {
            matches!(e, Refusal::NotAllowed { .. })
        }),
        (&|r| r.prefix = prefix("192.0.2.128/25"), |e| {
            matches!(e, Refusal::Protected { .. })
        }),
        (&|r| r.prefix = prefix("192.0.0.0/16"), |e| {
            matches!(e, Refusal::Protected { .. })
        }),
        // A gateway, and the flows' own address.
        (&|r| r.prefix = prefix("192.0.3.0/24"), |e| {
            matches!(e, Refusal::Protected { .. })
        }),
        (&|r| r.prefix = prefix("198.51.100.0/24"), |e| {
            matches!(e, Refusal::Protected { .. })
        }),
        (&|r| r.prefix = prefix("224.0.1.0/24"), |e| {
            matches!(e, Refusal::Special { .. })
        }),
        (&|r| r.prefix = prefix("127.0.0.0/8"), |e| {
            matches!(e, Refusal::Special { .. })
        }),
        (&|r| r.prefix = prefix("203.0.113.7/24"), |e| {
            matches!(e, Refusal::Special { .. })
        }),
        (&|r| r.table = 255, |e| {
            matches!(e, Refusal::BadTarget { .. })
        }),
        (&|r| r.table = 0, |e| matches!(e, Refusal::BadTarget { .. })),
        (&|r| r.interface = "eth0".to_owned(), |e| {
            matches!(e, Refusal::UnknownEgress { .. })
        }),
        (&|r| r.gateway = ip("192.0.3.9"), |e| {
            matches!(e, Refusal::UnknownEgress { .. })
        }),
        (&|r| r.source = ip("192.0.3.2"), |e| {
            matches!(e, Refusal::ForeignSource { .. })
        }),
        (&|r| r.source = ip(common::SOURCE6), |e| {
            matches!(e, Refusal::ForeignSource { .. })
        }),
        (
            &|r| {
                r.egress = "a".into();
                r.interface = "wan-a".to_owned();
                r.gateway = ip("192.0.2.1");
            },
            |e| matches!(e, Refusal::Unproven { .. }),
        ),
    ];
    for (change, expected) in refused {
        let refusal = with(change).unwrap_err();
        assert!(expected(&refusal), "{refusal}");
    }
    let mut plan = good.clone();
    plan.routes.clear();
    assert_eq!(check(&plan, onset, &policy(), &facts), Err(Refusal::Empty));
    plan.routes = vec![route.clone(), route.clone()];
    assert!(matches!(
        check(&plan, onset, &policy(), &facts),
        Err(Refusal::Duplicate { .. })
    ));
    let tight = Policy {
        max_routes: 1,
        ..policy()
    };
    assert!(matches!(
        check(&plan, onset, &tight, &facts),
        Err(Refusal::TooMany { .. })
    ));
    plan.routes.truncate(1);
    let late = common::ms(ONSET + 10);
    assert!(matches!(
        check(&plan, late, &policy(), &facts),
        Err(Refusal::Unproven { .. })
    ));
    assert_eq!(check(&plan, onset, &policy(), &facts), Ok(()));
    facts.maintenance = Some("router".to_owned());
    assert_eq!(
        check(&plan, onset, &policy(), &facts),
        Err(Refusal::Maintenance {
            reason: "router".to_owned()
        })
    );
    assert!(
        matches!(
            check(&plan, late, &policy(), &facts),
            Err(Refusal::Unproven { .. })
        ),
        "maintenance is the last reason"
    );
    facts.kill_switch = true;
    assert_eq!(
        check(&plan, onset, &policy(), &facts),
        Err(Refusal::KillSwitch)
    );
}

#[test]
fn a_dead_family_leaves_the_other_alone_also_where_all_was_dead_before() {
    for ipv6 in [false, true] {
        let egress = "a".into();
        let world = decided(policy(), Verdict::AddressFamily { egress, ipv6 }, &ALL);
        let routes = world.routes();
        assert!(!routes.is_empty());
        assert!(
            routes
                .iter()
                .all(|(p, _)| prefix(p).addr().is_ipv6() == ipv6)
        );
    }
}

/// A verdict that is older than a plan waits for proof; then two answers of a target through `b`.
fn late(verdict: Verdict, target: &str, ask: impl Fn(&mut World)) -> World {
    let mut world = World::new(policy());
    world.at(ONSET + 150).confirm("i", verdict, &ALL);
    for at in [1_200, 1_250, 1_700, 1_750, 2_200, 2_250, 2_700] {
        world.at(ONSET + at);
        world.probe("b", target, ProbeSource::Flow, true);
        ask(&mut world);
    }
    world.at(ONSET + 3_200);
    world
}

#[test]
fn who_answers_no_probes_at_all_shows_no_old_break() {
    let remote = || Verdict::RemoteAs { asn: Asn(64_601) };
    let (answers, silent) = (PEERS[0].0, PEERS[1].0);
    let lost = |world: &mut World, egress: &str, target: &str| {
        world.probe(egress, target, ProbeSource::Flow, false);
    };
    let world = late(remote(), answers, |world| {
        lost(world, "a", silent);
        lost(world, "b", silent);
    });
    assert_eq!(world.routes(), [], "another one of its prefix answers");
    let world = late(remote(), answers, |world| lost(world, "a", answers));
    assert_eq!(world.routes(), [("203.0.113.0/24".to_owned(), 50)]);
}

#[test]
fn anchors_that_are_dead_everywhere_tell_nothing_of_a_prefix() {
    let target = PEERS[3].0;
    let anchors = |world: &mut World| {
        for (anchor, _) in ANCHORS {
            world.probe("a", anchor, ProbeSource::Flow, false);
            world.probe("b", anchor, ProbeSource::Flow, false);
        }
    };
    let world = late(upstream(), target, anchors);
    assert_eq!(world.routes(), [], "nobody asked there through a");
    let world = late(upstream(), target, |world| {
        anchors(world);
        world.probe("a", target, ProbeSource::Flow, false);
    });
    assert_eq!(world.routes(), [("198.19.0.0/16".to_owned(), 50)]);
}

#[test]
fn what_answers_through_a_broken_egress_stays_when_anchors_fall_silent() {
    let target = PEERS[3].0;
    let mut world = World::new(policy());
    for (at, ok) in [(20, true), (40, false), (60, false), (80, false)] {
        world.at(ONSET + at).anchors(true);
        for (anchor, _) in ANCHORS {
            world.probe("a", anchor, ProbeSource::Flow, ok);
        }
    }
    world.at(ONSET + 120);
    world.probe("a", target, ProbeSource::Flow, true);
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.run(ONSET + 1_800, true);
    let moved: Vec<String> = world
        .installs()
        .iter()
        .flat_map(|plan| plan.routes.iter().map(|route| route.prefix.to_string()))
        .collect();
    assert!(moved.contains(&"203.0.113.0/24".to_owned()), "{moved:?}");
    assert!(!moved.contains(&"198.19.0.0/16".to_owned()), "{moved:?}");
}
