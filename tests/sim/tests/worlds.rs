//! Whole worlds: the same seed gives the same world, each kind of fault is judged right where nothing
//! disturbs, and evidence that is switched off is missed.

use std::collections::BTreeMap;

use sim::draw::world_seed;
use sim::fault::Kind;
use sim::judge::Judged;
use sim::params::Params;
use sim::run::{Run, run, world};
use sim::truth::Truth;
use sim::without::Without;
use sim::world::World;

/// Small worlds with one lasting fault of a kind, on the primary, and nothing else.
fn calm(kind: &str) -> Params {
    let faults = [
        "none",
        "carrier",
        "neighbor",
        "gateway",
        "gateway_mute",
        "forwards_nothing",
        "upstream",
        "remote_as",
        "as_edge",
        "prefix",
        "single_peer",
        "egress_only",
        "return_path",
        "host_stall",
        "isolation",
        "one_family",
    ];
    let weights: String = faults
        .iter()
        .map(|name| format!("{name} = {}\n", u8::from(*name == kind)))
        .collect();
    let quiet = [
        "loss",
        "jitter",
        "bufferbloat",
        "delayed_ack_worlds",
        "restart",
        "epoch_pause",
        "stall",
        "jump",
        "timer_lag",
        "bgp_noise",
        "session_flap",
        "lost_events",
    ]
    .map(|name| format!("{name} = 0\n"))
    .concat();
    Params::with(&format!(
        "[world]\npeers = [24, 24]\n\
         [topology]\nanswers_by_primary = 0\ngateways_silent = 0\n\
         [family]\nipv4 = 0\nipv6 = 0\nboth = 1\n\
         [traffic]\nidle = 0\nbursty = 0\nchatty_50 = 1\nchatty_200 = 0\nchatty_1000 = 0\n\
         [feed]\nnone = 0\nprompt = 1\nlate = 0\nstale = 0\n\
         [fault_shape]\nsecond = 0\nbackup = 0\nheals = 0\n\
         [fault]\n{weights}[benign]\n{quiet}"
    ))
    .expect("parameters")
}

fn judged(kind: &str, seed: u64) -> Judged {
    world(&calm(kind), seed, Without::default())
}

#[test]
fn the_same_seed_gives_the_same_world_whatever_ran_before() {
    let params = Params::shipped().expect("shipped");
    for index in 0..6 {
        let seed = world_seed(11, index);
        let story = |_: ()| sim::explain::explain(&params, seed, Without::default()).0;
        let first = story(());
        let _ = world(&params, seed + 1, Without::default());
        assert_eq!(first, story(()), "world {seed}");
    }
}

#[test]
fn a_run_is_the_same_on_any_number_of_threads() {
    let params = calm("upstream");
    let plan = Run {
        worlds: 4,
        seed: 5,
        without: Without::default(),
        title: String::new(),
    };
    let (parallel, _) = run(&params, &plan);
    let alone: Vec<Judged> = (0..4)
        .map(|n| world(&params, world_seed(5, n), Without::default()))
        .collect();
    assert_eq!(format!("{parallel:?}"), format!("{alone:?}"));
}

/// Kinds for which a calm world has one right answer.
const CALM: [&str; 11] = [
    "carrier",
    "neighbor",
    "gateway",
    "gateway_mute",
    "forwards_nothing",
    "upstream",
    "egress_only",
    "return_path",
    "isolation",
    "one_family",
    "none",
];

#[test]
fn one_calm_world_of_each_wide_fault_is_judged_right() {
    for kind in CALM {
        let judged = judged(kind, 3);
        assert!(judged.right, "{kind}: {judged:?}");
        assert!(judged.wrong.is_empty(), "{kind}: {judged:?}");
    }
}

/// Connections are backed off when everything comes back, and silent for seconds: nothing is made of that.
#[test]
fn what_is_backed_off_after_an_isolation_is_no_fault_of_its_own() {
    let mut params = calm("isolation");
    params.fault_shape.heals = 1.0;
    params.fault_shape.heals_after_s = [3.0, 8.0];
    params.world.observe_s = 14.0;
    for seed in 0..8 {
        let judged = world(&params, world_seed(3, seed), Without::default());
        assert!(judged.right && judged.wrong.is_empty(), "{judged:?}");
        assert_eq!(judged.verdict, "total_isolation", "{judged:?}");
    }
}

/// Where all peers send and are heard, and BGP names nobody, the way out alone is dead.
#[test]
fn the_way_out_alone_is_told_from_an_upstream() {
    let verdict = |kind: &str, inbound: f64| {
        let mut params = calm(kind);
        params.traffic.inbound_all = inbound;
        params.traffic.inbound = inbound;
        params.feed.prompt = 0.0;
        params.feed.none = 1.0;
        // Once a route is in, what is heard tells of that one.
        params.adapter.install_ms = [600.0, 700.0];
        let judged = world(&params, 3, Without::default());
        assert!(judged.right, "{judged:?}");
        judged.verdict
    };
    assert_eq!(verdict("egress_only", 1.0), "egress_only");
    assert_eq!(verdict("egress_only", 0.0), "upstream_as");
}

#[test]
fn single_peers_are_named_and_never_acted_on() {
    let judged = judged("single_peer", 3);
    assert!(judged.right && judged.wrong.is_empty(), "{judged:?}");
    assert_eq!(judged.verdict, "single_peer");
    assert_eq!(judged.found, None, "no route helps");
}

#[test]
fn the_truth_follows_from_the_fate_of_packets() {
    let truth = |kind: &str, seed| {
        let ran = World::new(&calm(kind), seed, Without::default(), false).run();
        (Truth::of(&ran).remove(0), ran)
    };
    let (carrier, ran) = truth("carrier", 3);
    assert_eq!(carrier.affected.len(), ran.topology.peers.len());
    assert!(carrier.must && carrier.critical && carrier.actionable);

    let (back, ran) = truth("return_path", 3);
    assert_eq!(back.affected.len(), ran.topology.peers.len());
    assert!(
        back.critical && !back.actionable,
        "no route brings answers back"
    );

    let (peer, _) = truth("single_peer", 3);
    assert_eq!(peer.affected.len(), 1);
    assert!(!peer.critical && !peer.actionable);

    let (family, ran) = truth("one_family", 3);
    let families: Vec<bool> = family
        .affected
        .iter()
        .map(|n| ran.topology.peers[*n].v6())
        .collect();
    assert!(!families.is_empty() && families.len() < ran.topology.peers.len());
    assert!(families.iter().all(|v6| *v6 == families[0]));
    assert!(family.right.iter().all(|r| r.class != "upstream_as"));

    let (remote, ran) = truth("remote_as", 3);
    let culprit = ran.faults[0].culprit.expect("an AS");
    assert!(remote.culprits.contains(&culprit));
    for n in &remote.affected {
        let paths = &ran.topology.peers[*n].paths;
        let inbound = ran.topology.inbound;
        assert!(paths[0].contains(&culprit) || paths[inbound].contains(&culprit));
    }

    let ran = World::new(&calm("none"), 3, Without::default(), false).run();
    assert!(Truth::of(&ran).is_empty());
}

#[test]
fn when_answers_come_in_by_what_broke_no_route_helps() {
    let mut params = calm("upstream");
    params.topology.answers_by_primary = 1.0;
    let ran = World::new(&params, 3, Without::default(), false).run();
    let truth = Truth::of(&ran).remove(0);
    assert!(!truth.actionable);
    assert!(truth.right.iter().any(|r| r.class == "return_path"));
}

#[test]
fn evidence_that_is_switched_off_is_missed() {
    let right = |kind: &str, off: &str| {
        let mut without = Without::default();
        assert!(off.is_empty() || without.switch_off(off));
        let worlds = (0..3).map(|n| world(&calm(kind), world_seed(9, n), without));
        worlds.filter(|w| w.right).count()
    };
    for (kind, off) in [
        ("single_peer", "tcp"),
        ("gateway", "probes"),
        ("return_path", "flow_probes"),
    ] {
        let (full, less) = (right(kind, ""), right(kind, off));
        assert!(less < full, "{kind} without {off}: {less} of {full}");
    }
    // A gateway that never answered: only the kernel can say that it is gone, and not the upstream AS.
    let right = |off: &str| {
        let mut params = calm("neighbor");
        params.topology.gateways_silent = 1.0;
        params.fault_shape.neighbor_signal_s = [0.5, 0.5];
        let mut without = Without::default();
        assert!(off.is_empty() || without.switch_off(off));
        let judged = world(&params, world_seed(9, 0), without);
        (judged.right, judged.verdict)
    };
    assert_eq!(right(""), (true, "local_link".to_owned()));
    assert_eq!(right("neighbor"), (false, "upstream_as".to_owned()));
    // Later, or worse: without carrier the link's death is still a dead gateway's.
    let decision = |off: &str| {
        let mut without = Without::default();
        assert!(off.is_empty() || without.switch_off(off));
        world(&calm("carrier"), 3, without).decision_ms
    };
    assert!(decision("").is_some_and(|ms| ms < 20.0));
    assert!(decision("carrier").is_none_or(|ms| ms > 20.0));
}

#[test]
fn all_kinds_of_faults_are_drawn() {
    let params = Params::shipped().expect("shipped");
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for index in 0..400 {
        let mut draw = sim::draw::Draw::new(world_seed(1, index), 1);
        let topology = sim::topology::Topology::draw(&mut draw, &params);
        for fault in sim::fault::draw_all(&mut draw, &params, &topology, 1_000_000) {
            *kinds.entry(fault.kind).or_default() += 1;
        }
    }
    for kind in Kind::ALL {
        assert!(kinds.contains_key(&kind), "{kind}");
    }
}
