//! What BGP adds to an incident: the link that was lost, another origin, evidence against, and what
//! comes after the end.

mod world;

use events::{
    Asn, BgpSignal, BgpSummary, Burst, Conclusion, EntryKind, LinkScore, NeighborId,
    OriginValidation, PeerKey, RouteAttributes, RouteChange, Verdict,
};

use correlator::Output;
use world::{Fault, Setup, TRANSIT, UPSTREAM_A, World, a, ms};

const CUT: u64 = 3000;

fn neighbor() -> NeighborId {
    NeighborId::session("192.0.2.1".parse().unwrap())
}

fn route(world: &World, prefix_index: usize, path: &[Asn], at: u64) -> RouteAttributes {
    let peer = world.peers.iter().find(|p| p.prefix_index == prefix_index);
    RouteAttributes {
        prefix: peer.unwrap().prefix,
        as_path: path.to_vec(),
        next_hop: "192.0.2.1".parse().unwrap(),
        received_at: ms(at),
        validation: None,
    }
}

/// The route of a prefix changes as `new` says; `None`: it is withdrawn.
fn change(
    world: &mut World,
    at: u64,
    prefix_index: usize,
    old: &[Asn],
    new: Option<RouteAttributes>,
) {
    let of = world
        .peers
        .iter()
        .filter(|p| p.prefix_index == prefix_index);
    let peers: Vec<PeerKey> = of.map(|p| PeerKey(p.address)).collect();
    let old = route(world, prefix_index, old, 0);
    let change = RouteChange {
        neighbor: neighbor(),
        egress: a(),
        prefix: old.prefix,
        old: Some(old),
        new,
        peers,
    };
    world.correlator.bgp(ms(at), &BgpSignal::Change(change));
}

fn last(world: &World) -> BgpSummary {
    let of = |output: &Output| match output {
        Output::Conclusion(Conclusion::Confirmed { bgp, .. } | Conclusion::Updated { bgp, .. }) => {
            Some(bgp.clone())
        }
        _ => None,
    };
    let mut told = world.outputs.iter().rev();
    told.find_map(|(_, output)| of(output)).expect("told")
}

/// A transit AS is dead behind the upstream; two prefixes of two origins lie behind it.
fn transit_dead() -> World {
    let mut world = World::new(Setup::new(4).fault(CUT, 9_000, Fault::Transit));
    world.run(6_000);
    let asn = TRANSIT;
    let verdicts = world.verdicts();
    let told: Vec<&Verdict> = verdicts.iter().map(|(_, v)| v).collect();
    assert_eq!(told, [&Verdict::RemoteAs { asn }], "{}", world.story());
    world
}

#[test]
fn a_lost_link_is_named_with_those_behind_it() {
    let mut world = transit_dead();
    for (prefix, origin) in [(6, 64_703), (7, 64_704)] {
        let old = [UPSTREAM_A, TRANSIT, Asn(origin)];
        let new = [UPSTREAM_A, Asn(64_610), Asn(origin)];
        let new = route(&world, prefix, &new, 6_000);
        change(&mut world, 6_000, prefix, &old, Some(new));
    }
    world.run(6_200);
    let bgp = last(&world);
    assert_eq!(bgp.culprit, Some(TRANSIT), "{}", bgp.text);
    let text = "AS64510 lost its link to AS64600; 10 of your 40 peers were behind it";
    assert!(bgp.text.contains(text), "{}", bgp.text);
    assert_eq!((bgp.withdrawn, bgp.changed), (0, 2));
}

#[test]
fn another_origin_may_be_a_hijack() {
    let origin = Asn(64_702);
    let mut world = World::new(Setup::new(9).fault(CUT, 9_000, Fault::Origin(origin)));
    world.run(6_000);
    let text = last(&world).text;
    let still = "the table still has the routes to 10 of 10 affected peers unchanged";
    assert!(text.contains(still), "{text}");
    for prefix in [4, 5] {
        let old = [UPSTREAM_A, origin];
        let mut new = route(&world, prefix, &[UPSTREAM_A, Asn(65_001)], 6_000);
        new.validation = Some(OriginValidation::Invalid);
        change(&mut world, 6_000, prefix, &old, Some(new));
    }
    world.run(6_200);
    let bgp = last(&world);
    assert_eq!(bgp.culprit, Some(Asn(65_001)), "{}", bgp.text);
    let text = "announced by AS65001 instead of AS64702, RPKI-invalid: this may be a hijack";
    assert!(bgp.text.contains(text), "{}", bgp.text);
    assert!(!bgp.text.contains("unchanged"), "{}", bgp.text);
    let told = bgp;
    for prefix in [4, 5] {
        let old = [UPSTREAM_A, Asn(65_001)];
        let new = route(&world, prefix, &[UPSTREAM_A, origin], 6_400);
        change(&mut world, 6_400, prefix, &old, Some(new));
    }
    world.run(6_600);
    let bgp = last(&world);
    assert_eq!(
        bgp.culprit, told.culprit,
        "the end of it blames nobody else"
    );
    assert!(
        bgp.text.contains("instead of AS64702, RPKI"),
        "{}",
        bgp.text
    );
}

#[test]
fn another_next_hop_is_told() {
    let mut world = transit_dead();
    for (prefix, origin) in [(6, 64_703), (7, 64_704)] {
        let path = [UPSTREAM_A, TRANSIT, Asn(origin)];
        let mut new = route(&world, prefix, &path, 6_000);
        new.next_hop = "192.0.2.99".parse().unwrap();
        change(&mut world, 6_000, prefix, &path, Some(new));
    }
    world.run(6_200);
    let bgp = last(&world);
    assert!(
        bgp.text.contains("2 routes with another next hop"),
        "{}",
        bgp.text
    );
}

#[test]
fn a_burst_of_the_whole_table_weighs_in() {
    let mut world = transit_dead();
    let link = (UPSTREAM_A, TRANSIT);
    let burst = Burst {
        neighbor: neighbor(),
        egress: a(),
        since: ms(5_900),
        prefixes: 12_000,
        links: vec![LinkScore {
            link,
            withdrawn: 12_000,
            remaining: 0,
            score: 1.0,
        }],
        ases: Vec::new(),
        partial: false,
    };
    world.correlator.bgp(ms(6_000), &BgpSignal::Burst(burst));
    world.run(6_200);
    let told = world.outputs.iter().any(|(_, output)| {
        matches!(output, Output::Journal(e) if e.kind == EntryKind::BgpEvidence
            && e.text.contains("12000 routes of 192.0.2.1 changed at once on a; the link AS64510 AS64600 scores 1.00"))
    });
    assert!(told, "{}", world.story());
}

#[test]
fn evidence_after_the_end_is_told_too() {
    let mut world = transit_dead();
    world.run(20_000);
    let ended = world.correlator.incidents();
    let real = |i: &&events::Incident| i.verdict == Some(Verdict::RemoteAs { asn: TRANSIT });
    let incident = ended.iter().find(real).expect("it ended");
    assert!(incident.resolved_at.is_some());
    let conclusions = world.outputs.len();
    for (prefix, origin) in [(6, 64_703), (7, 64_704)] {
        change(
            &mut world,
            20_000,
            prefix,
            &[UPSTREAM_A, TRANSIT, Asn(origin)],
            None,
        );
    }
    world.run(21_000);
    let late: Vec<&Output> = world.outputs[conclusions..]
        .iter()
        .map(|(_, o)| o)
        .collect();
    assert!(
        late.iter().all(|o| !matches!(o, Output::Conclusion(_))),
        "nothing is done"
    );
    let note = late.iter().find_map(|output| match output {
        Output::Journal(e) if e.kind == EntryKind::Note => Some(e.text.clone()),
        _ => None,
    });
    let note = note.expect("a note");
    assert!(
        note.starts_with("BGP, after the end: 2 routes withdrawn"),
        "{note}"
    );
    let ended = world.correlator.incidents();
    let incident = ended.iter().find(real).expect("it ended");
    assert_eq!(incident.bgp.withdrawn, 2);
}
