use super::*;
use crate::attributes::Attributes;
use crate::attributes::Origin;
use crate::nlri::Nlri;
use crate::path::{AsPath, Segment, SegmentKind};
use crate::update::Update;
use crate::update::{Announcement, Context};
use events::{Asn, RibQuery, RouteAttributes};
use std::net::IpAddr;
use std::net::Ipv4Addr;

const A: NeighborId = NeighborId::session(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
const B: NeighborId = NeighborId::session(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));

fn rib(max_prefixes: u32) -> Rib {
    Rib::new([(A, "a"), (B, "b")].map(|(id, egress)| NeighborConfig {
        id,
        egress: egress.into(),
        max_prefixes,
    }))
}

fn negotiated() -> Negotiated {
    Negotiated {
        asn: Asn(64500),
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        hold_time: Duration::from_secs(90),
        graceful_restart: true,
        context: Context {
            four_octet_as: true,
            internal: false,
            families: Families::BOTH,
            ..Context::default()
        },
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn attributes(path: &[u32], hop: u8, other: &[u8]) -> Attributes {
    Attributes {
        origin: Origin::Igp,
        as_path: AsPath(vec![Segment {
            kind: SegmentKind::Sequence,
            members: path.iter().copied().map(Asn).collect(),
        }]),
        next_hop: IpAddr::V4(Ipv4Addr::new(192, 0, 2, hop)),
        link_local: None,
        other: other.to_vec(),
    }
}

fn nlri(prefixes: &[&str]) -> Vec<Nlri> {
    let parsed = |prefix: &&str| Nlri::from(prefix.parse::<Prefix>().unwrap());
    prefixes.iter().map(parsed).collect()
}

fn announce(prefixes: &[&str], path: &[u32]) -> Update {
    announce_with(prefixes, attributes(path, 1, &[]))
}

fn announce_with(prefixes: &[&str], attributes: Attributes) -> Update {
    Update {
        announced: vec![Announcement {
            attributes,
            nlri: nlri(prefixes),
            ineligible: None,
        }],
        ..Update::default()
    }
}

fn withdraw(prefixes: &[&str]) -> Update {
    Update {
        withdrawn: nlri(prefixes),
        ..Update::default()
    }
}

fn end() -> Update {
    Update {
        end_of_rib: Some(Family::Ipv4),
        ..Update::default()
    }
}

fn watch(rib: &mut Rib, peers: &[&str]) -> Vec<String> {
    let peers = peers
        .iter()
        .map(|peer| PeerKey(peer.parse().unwrap()))
        .collect();
    said(&rib.watch(peers))
}

fn apply(rib: &mut Rib, session: u64, update: &Update, seconds: u64) -> Vec<String> {
    let (signals, exceeded) = rib.apply(A, session, update, at(seconds));
    assert_eq!(exceeded, None);
    said(&signals)
}

fn said(signals: &[BgpSignal]) -> Vec<String> {
    let route = |route: &Option<RouteAttributes>| match route {
        Some(route) => {
            let path: Vec<String> = route.as_path.iter().map(|asn| asn.0.to_string()).collect();
            format!("{} [{}]", route.prefix, path.join(" "))
        }
        None => "none".to_owned(),
    };
    let one = |signal: &BgpSignal| match signal {
        BgpSignal::SessionUp { egress, .. } => format!("up {egress}"),
        BgpSignal::SessionDown { egress, .. } => format!("down {egress}"),
        BgpSignal::EndOfRib { ipv6, .. } => format!("end ipv6={ipv6}"),
        BgpSignal::Fact(fact) => format!(
            "{} by {}: {}{}",
            fact.peer,
            fact.egress,
            route(&fact.route),
            if fact.stale { " stale" } else { "" }
        ),
        BgpSignal::Change(change) => {
            let peers: Vec<String> = change.peers.iter().map(ToString::to_string).collect();
            format!(
                "{} -> {} for {}",
                route(&change.old),
                route(&change.new),
                peers.join(" ")
            )
        }
        BgpSignal::Burst(burst) => format!("burst of {}", burst.prefixes),
    };
    signals.iter().map(one).collect()
}

#[test]
fn changes_come_before_the_facts_that_follow_from_them() {
    let mut rib = rib(100);
    assert!(
        watch(&mut rib, &["10.1.0.1", "10.2.0.1"]).is_empty(),
        "nothing is known"
    );
    assert_eq!(said(&rib.session_up(A, 1, &negotiated(), at(0))), ["up a"]);
    assert_eq!(
        apply(
            &mut rib,
            1,
            &announce(&["10.0.0.0/8", "11.0.0.0/8"], &[1]),
            1
        ),
        [
            "none -> 10.0.0.0/8 [1] for 10.1.0.1 10.2.0.1",
            "10.1.0.1 by a: 10.0.0.0/8 [1]",
            "10.2.0.1 by a: 10.0.0.0/8 [1]"
        ]
    );
    assert_eq!(
        apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1, 2]), 2),
        [
            "none -> 10.1.0.0/16 [1 2] for 10.1.0.1",
            "10.1.0.1 by a: 10.1.0.0/16 [1 2]"
        ]
    );
    // The wide route now covers one of them only.
    assert_eq!(
        apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[3]), 3),
        [
            "10.0.0.0/8 [1] -> 10.0.0.0/8 [3] for 10.2.0.1",
            "10.2.0.1 by a: 10.0.0.0/8 [3]"
        ]
    );
    assert_eq!(
        apply(
            &mut rib,
            1,
            &withdraw(&["10.1.0.0/16", "11.0.0.0/8", "12.0.0.0/8"]),
            4
        ),
        [
            "10.1.0.0/16 [1 2] -> none for 10.1.0.1",
            "10.1.0.1 by a: 10.0.0.0/8 [3]"
        ]
    );
    let moved = announce_with(&["10.0.0.0/8"], attributes(&[3], 9, &[]));
    let (signals, _) = rib.apply(A, 1, &moved, at(5));
    let BgpSignal::Change(change) = &signals[0] else {
        panic!("{signals:?}");
    };
    assert_eq!(change.peers.len(), 2);
    assert_eq!(
        change.new.as_ref().unwrap().next_hop.to_string(),
        "192.0.2.9"
    );
}

#[test]
fn saying_it_again_or_changing_what_nobody_sees_is_no_signal() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[1]), 1);
    assert!(apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[1]), 2).is_empty());
    let tagged = announce_with(
        &["10.0.0.0/8"],
        attributes(&[1], 1, &[0xc0, 8, 4, 0, 1, 0, 2]),
    );
    assert!(apply(&mut rib, 1, &tagged, 3).is_empty());
    assert!(apply(&mut rib, 1, &announce(&["11.0.0.0/8"], &[1]), 4).is_empty());
    let routes = rib.routes(RibQuery::Address("10.1.0.1".parse().unwrap()), 9);
    assert_eq!(routes[0].route.received_at, at(1));
}

#[test]
fn a_lost_session_makes_routes_stale_and_the_next_one_sorts_them_out() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1", "10.2.0.1", "10.3.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(
        &mut rib,
        1,
        &announce(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"], &[1]),
        1,
    );
    assert_eq!(apply(&mut rib, 1, &end(), 1), ["end ipv6=false"]);
    let down = rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    assert_eq!(
        said(&down),
        [
            "down a",
            "10.1.0.1 by a: 10.1.0.0/16 [1] stale",
            "10.2.0.1 by a: 10.2.0.0/16 [1] stale",
            "10.3.0.1 by a: 10.3.0.0/16 [1] stale"
        ]
    );
    assert!(
        rib.session_down(A, 1, SessionDownReason::Administrative)
            .is_empty()
    );
    assert!(rib.status(A).stale);
    assert!(rib.routes(RibQuery::All, 9).iter().all(|route| route.stale));

    assert_eq!(said(&rib.session_up(A, 2, &negotiated(), at(9))), ["up a"]);
    assert!(!rib.status(A).stale);
    assert_eq!(
        apply(&mut rib, 2, &announce(&["10.1.0.0/16"], &[1]), 10),
        ["10.1.0.1 by a: 10.1.0.0/16 [1]"],
        "the same again is no change, but it is fresh"
    );
    assert_eq!(
        apply(&mut rib, 2, &announce(&["10.2.0.0/16"], &[7]), 10),
        [
            "10.2.0.0/16 [1] -> 10.2.0.0/16 [7] for 10.2.0.1",
            "10.2.0.1 by a: 10.2.0.0/16 [7]"
        ]
    );
    assert_eq!(
        apply(&mut rib, 2, &end(), 11),
        [
            "end ipv6=false",
            "10.3.0.0/16 [1] -> none for 10.3.0.1",
            "10.3.0.1 by a: none"
        ]
    );
}

/// A table that takes longer than the deadline is no reason to withdraw what is still to come.
#[test]
fn without_end_of_rib_the_deadline_waits_while_routes_come_again() {
    let mut rib = rib(100);
    rib.session_up(A, 1, &negotiated(), at(0));
    let prefixes = ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8", "13.0.0.0/8"];
    apply(&mut rib, 1, &announce(&prefixes, &[1]), 1);
    rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    rib.session_up(A, 2, &negotiated(), at(10));
    for (prefix, seconds) in prefixes.iter().zip([100, 200, 300]) {
        rib.expire(at(seconds));
        assert_eq!(rib.status(A).ipv4, 4, "at {seconds} s");
        apply(&mut rib, 2, &announce(&[prefix], &[1]), seconds);
    }
    // What came already, and what is new, says nothing of the rest.
    apply(
        &mut rib,
        2,
        &announce(&["10.0.0.0/8", "14.0.0.0/8"], &[2]),
        400,
    );
    rib.expire(at(419));
    assert_eq!(rib.status(A).ipv4, 5);
    rib.expire(at(420));
    assert_eq!(
        rib.status(A).ipv4,
        4,
        "two minutes after the last that came again"
    );
}

#[test]
fn without_end_of_rib_the_deadline_completes_the_table() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1", "10.9.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
    rib.session_down(A, 1, SessionDownReason::Administrative);
    assert_eq!(rib.deadline(), None);
    rib.session_up(A, 2, &negotiated(), at(10));
    let due = at(10) + END_OF_RIB_WAIT;
    assert_eq!(rib.deadline(), Some(due));
    assert!(rib.expire(at(11)).is_empty());
    assert_eq!(
        said(&rib.expire(due)),
        [
            "10.1.0.0/16 [1] -> none for 10.1.0.1",
            "10.1.0.1 by a: none",
            "10.9.0.1 by a: none"
        ]
    );
    assert_eq!(rib.deadline(), None);
    assert_eq!(rib.attribute_sets(), 1, "only the history remembers it");
    rib.expire(at(10_000));
    assert_eq!(
        rib.attribute_sets(),
        0,
        "nothing refers to the attributes any more"
    );
}

/// RFC 4724 section 4.2.
#[test]
fn a_restart_keeps_the_families_whose_forwarding_went_on() {
    let restart = |forwarding: Families| {
        Some(crate::open::GracefulRestart {
            time: 60,
            families: Families::BOTH,
            forwarding,
            ..Default::default()
        })
    };
    let all = ["10.1.0.0/16", "2001:db8::/32"];
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1", "2001:db8::1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    assert!(rib.restarted(A, 1, restart(Families::NONE)).is_empty());
    apply(&mut rib, 1, &announce(&all, &[1]), 1);
    rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    assert_eq!(rib.routes(RibQuery::All, 9).len(), 2);
    rib.session_up(A, 2, &negotiated(), at(9));
    let only_ipv4 = Families {
        ipv4: true,
        ipv6: false,
    };
    assert_eq!(
        said(&rib.restarted(A, 2, restart(only_ipv4))),
        ["2001:db8::1 by a: none stale"],
        "forgotten, not withdrawn"
    );
    let left = rib.routes(RibQuery::All, 9);
    assert_eq!((left.len(), left[0].stale), (1, true));
    assert_eq!(
        apply(&mut rib, 2, &end(), 10),
        [
            "end ipv6=false",
            "10.1.0.0/16 [1] -> none for 10.1.0.1",
            "10.1.0.1 by a: none"
        ]
    );
}

#[test]
fn without_graceful_restart_before_routes_wait_for_end_of_rib() {
    let mut rib = rib(100);
    rib.session_up(A, 1, &negotiated(), at(0));
    rib.restarted(A, 1, None);
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
    rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    rib.session_up(A, 2, &negotiated(), at(9));
    rib.restarted(A, 2, None);
    assert_eq!(rib.status(A).ipv4, 1);
}

/// RFC 7313 section 4.
#[test]
fn a_refresh_withdraws_what_was_not_sent_again() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1", "10.2.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    let all = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8::/32"];
    apply(&mut rib, 1, &announce(&all, &[1]), 1);
    apply(&mut rib, 1, &end(), 1);
    assert!(rib.refresh_ended(A, 1, Family::Ipv4).is_empty(), "no begin");
    rib.refresh_began(A, 1, Family::Ipv4);
    assert!(apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 2).is_empty());
    let kept = rib.routes(RibQuery::All, 9);
    assert!(kept.len() == 3 && kept.iter().all(|route| !route.stale));
    assert_eq!(kept[0].route.received_at, at(1), "the same as before");
    assert_eq!(
        said(&rib.refresh_ended(A, 1, Family::Ipv4)),
        [
            "10.2.0.0/16 [1] -> none for 10.2.0.1",
            "10.2.0.1 by a: none"
        ]
    );
    assert_eq!((rib.status(A).ipv4, rib.status(A).ipv6), (1, 1));
    // A session that ends forgets what had begun.
    rib.refresh_began(A, 1, Family::Ipv4);
    rib.session_up(A, 2, &negotiated(), at(5));
    assert!(rib.refresh_ended(A, 2, Family::Ipv4).is_empty());
}

#[test]
fn a_neighbour_is_removed_with_its_routes() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
    rib.session_down(A, 1, SessionDownReason::Administrative);
    assert_eq!(said(&rib.remove(A)), ["10.1.0.1 by a: none stale"]);
    assert!(rib.routes(RibQuery::All, 9).is_empty());
    assert_eq!(rib.attribute_sets(), 0);
}

#[test]
fn both_markers_end_the_wait() {
    let mut rib = rib(100);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &end(), 1);
    assert!(rib.deadline().is_some());
    let end6 = Update {
        end_of_rib: Some(Family::Ipv6),
        ..Update::default()
    };
    assert_eq!(apply(&mut rib, 1, &end6, 1), ["end ipv6=true"]);
    assert_eq!(rib.deadline(), None);
    assert_eq!(rib.status(A).complete, Families::BOTH);
}

#[test]
fn a_newer_session_ends_the_older_and_late_words_of_it_are_not_heard() {
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1]), 1);
    assert_eq!(
        said(&rib.session_up(A, 2, &negotiated(), at(2))),
        ["down a", "10.1.0.1 by a: 10.1.0.0/16 [1] stale", "up a"]
    );
    assert!(apply(&mut rib, 1, &withdraw(&["10.1.0.0/16"]), 3).is_empty());
    assert!(
        rib.session_down(A, 1, SessionDownReason::Administrative)
            .is_empty()
    );
    assert_eq!(rib.status(A).ipv4, 1);
}

#[test]
fn watching_later_says_what_is_known_by_neighbour_and_peer() {
    let mut rib = rib(100);
    for (id, session) in [(B, 1), (A, 2)] {
        rib.session_up(id, session, &negotiated(), at(0));
        rib.apply(id, session, &announce(&["10.0.0.0/8"], &[1]), at(1));
    }
    apply(&mut rib, 2, &end(), 1);
    assert_eq!(
        watch(&mut rib, &["10.1.0.1", "172.16.0.1"]),
        [
            "10.1.0.1 by a: 10.0.0.0/8 [1]",
            "172.16.0.1 by a: none",
            "10.1.0.1 by b: 10.0.0.0/8 [1]"
        ],
        "b's table is not complete: what it lacks is not known yet"
    );
    assert_eq!(
        watch(&mut rib, &["10.1.0.1", "10.1.0.2"]),
        [
            "10.1.0.2 by a: 10.0.0.0/8 [1]",
            "10.1.0.2 by b: 10.0.0.0/8 [1]"
        ]
    );
}

#[test]
fn the_limit_of_prefixes_is_per_family_and_counts_no_replacement() {
    let mut rib = rib(2);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(
        &mut rib,
        1,
        &announce(&["10.0.0.0/8", "11.0.0.0/8", "2001:db8::/32"], &[1]),
        1,
    );
    apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[2]), 1);
    let (_, exceeded) = rib.apply(A, 1, &announce(&["12.0.0.0/8"], &[1]), at(1));
    let exceeded = exceeded.unwrap();
    assert_eq!((exceeded.family, exceeded.limit), (Family::Ipv4, 2));
    assert!(
        exceeded
            .to_string()
            .contains("192.0.2.1: more than 2 Ipv4 prefixes")
    );
    assert_eq!(rib.status(A).ipv4, 2);
}

/// A neighbour may come back with other prefixes: what it had before is stale, and no reason to
/// stop it.
#[test]
fn the_limit_of_prefixes_does_not_count_what_an_earlier_session_left() {
    let mut rib = rib(2);
    let two = |first: &str, second: &str| announce(&[first, second], &[1]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &two("10.0.0.0/8", "11.0.0.0/8"), 1);
    rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    rib.session_up(A, 2, &negotiated(), at(2));
    assert_eq!(rib.status(A).limited, (0, 0));
    apply(&mut rib, 2, &two("11.0.0.0/8", "12.0.0.0/8"), 3);
    assert_eq!((rib.status(A).ipv4, rib.status(A).limited), (3, (2, 0)));
    let (_, exceeded) = rib.apply(A, 2, &announce(&["10.0.0.0/8"], &[1]), at(3));
    assert!(exceeded.is_some(), "it is the third of this session");
    apply(&mut rib, 2, &withdraw(&["12.0.0.0/8"]), 3);
    apply(&mut rib, 2, &announce(&["10.0.0.0/8"], &[1]), 3);
    apply(&mut rib, 2, &end(), 4);
    assert_eq!((rib.status(A).ipv4, rib.status(A).limited), (2, (2, 0)));
    // Paths count one by one, whatever their prefix.
    let mut rib = self::rib(2);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &path("10.0.0.0/8", 1, &[1]), 1);
    apply(&mut rib, 1, &path("10.0.0.0/8", 2, &[1]), 1);
    assert_eq!((rib.status(A).ipv4, rib.status(A).limited), (1, (2, 0)));
    rib.session_up(A, 2, &negotiated(), at(2));
    apply(&mut rib, 2, &path("10.0.0.0/8", 3, &[1]), 3);
    apply(&mut rib, 2, &path("10.0.0.0/8", 1, &[1]), 3);
    assert_eq!(rib.status(A).limited, (2, 0));
    let (_, exceeded) = rib.apply(A, 2, &path("11.0.0.0/8", 1, &[1]), at(3));
    assert!(exceeded.is_some());
}

/// Random announcements and withdrawals against a list that is searched from end to end.
#[test]
fn agrees_with_a_model() {
    let mut state: u64 = 0x2545_f491_4f6c_dd1d;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state % below).unwrap()
    };
    let peers: Vec<IpAddr> = (0..16u8)
        .map(|n| IpAddr::from([10, n << 4, n, 1]))
        .collect();
    let mut rib = rib(10_000);
    rib.watch(peers.iter().copied().map(PeerKey).collect());
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &end(), 0);
    let mut model: BTreeMap<Prefix, u32> = BTreeMap::new();
    let mut facts: BTreeMap<IpAddr, Option<(Prefix, u32)>> = BTreeMap::new();
    let best = |model: &BTreeMap<Prefix, u32>, peer: &IpAddr| {
        let covering = model.iter().filter(|(prefix, _)| prefix.contains(peer));
        covering
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(p, asn)| (*p, *asn))
    };
    let mut changes = 0;
    for step in 0..4000 {
        let length = u8::try_from(8 + next(7)).unwrap();
        let address = IpAddr::from((10 << 24 | next(1 << 24)).to_be_bytes());
        let prefix = Prefix::new(address, length).unwrap().trunc();
        let before: Vec<_> = peers.iter().map(|peer| best(&model, peer)).collect();
        let text = prefix.to_string();
        let update = if next(3) == 0 {
            model.remove(&prefix);
            withdraw(&[&text])
        } else {
            let asn = 1 + next(3);
            model.insert(prefix, asn);
            announce(&[&text], &[asn])
        };
        let (signals, _) = rib.apply(A, 1, &update, at(step));
        let mut changed = Vec::new();
        for signal in signals {
            match signal {
                BgpSignal::Change(change) => {
                    changes += 1;
                    assert_eq!(change.prefix, prefix);
                    changed.extend(change.peers.iter().map(|peer| peer.0));
                }
                BgpSignal::Fact(fact) => {
                    let route = fact.route.map(|r| (r.prefix, r.as_path[0].0));
                    facts.insert(fact.peer.0, route);
                }
                // The peers' table is small and restless.
                BgpSignal::Burst(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let expected: Vec<IpAddr> = peers
            .iter()
            .zip(before)
            .filter(|(peer, before)| best(&model, peer) != *before)
            .map(|(peer, _)| *peer)
            .collect();
        assert_eq!(changed, expected, "step {step}, {prefix}");
        for peer in &peers {
            let said = facts.get(peer).copied().flatten();
            assert_eq!(said, best(&model, peer), "step {step}");
        }
    }
    assert!(changes > 300, "{changes}");
    assert_eq!(rib.status(A).ipv4, model.len());
    assert_eq!(rib.attribute_sets(), 3);
}

fn pages(rib: &Rib, request: &RibRequest) -> Vec<String> {
    let mut lines = Vec::new();
    let mut request = request.clone();
    loop {
        let mut walk = rib.walk(request.clone());
        while !rib.advance(&mut walk, 2) {}
        let page = rib.page(walk);
        assert!(page.routes.len() <= request.limit);
        if let Some(since) = page.known_since {
            return vec![format!("known since {}", since.as_nanos() / 1_000_000_000)];
        }
        for found in page.routes {
            let path: Vec<String> = found
                .route
                .as_path
                .iter()
                .map(|a| a.0.to_string())
                .collect();
            lines.push(format!(
                "{} {}{} [{}]{}",
                found.egress,
                found.route.prefix,
                found
                    .path_id
                    .map_or_else(String::new, |id| format!("#{id}")),
                path.join(" "),
                if found.stale { " stale" } else { "" }
            ));
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => return lines,
        }
    }
}

fn request(query: RibQuery, seconds: Option<u64>, limit: usize) -> RibRequest {
    RibRequest {
        query,
        neighbor: None,
        at: seconds.map(at),
        limit,
        after: None,
    }
}

#[test]
fn the_past_is_known_at_any_time_since_the_history_begins() {
    let mut rib = rib(100);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(
        &mut rib,
        1,
        &announce(&["10.0.0.0/8", "10.1.0.0/16"], &[1]),
        1,
    );
    apply(&mut rib, 1, &end(), 2);
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[2]), 10);
    apply(&mut rib, 1, &withdraw(&["10.1.0.0/16"]), 20);
    apply(
        &mut rib,
        1,
        &announce(&["10.1.0.0/16", "10.2.0.0/16"], &[3]),
        30,
    );
    rib.tick(at(35));
    rib.session_down(A, 1, SessionDownReason::Administrative);
    rib.tick(at(40));
    let address = RibQuery::Address("10.1.0.1".parse().unwrap());
    for (seconds, expected) in [
        (0, None),
        (1, Some("a 10.1.0.0/16 [1]")),
        (9, Some("a 10.1.0.0/16 [1]")),
        (10, Some("a 10.1.0.0/16 [2]")),
        (20, Some("a 10.0.0.0/8 [1]")),
        (29, Some("a 10.0.0.0/8 [1]")),
        (30, Some("a 10.1.0.0/16 [3]")),
        (36, Some("a 10.1.0.0/16 [3] stale")),
    ] {
        let found = pages(&rib, &request(address, Some(seconds), 9));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{seconds}");
    }
    let within = RibQuery::Prefix("10.0.0.0/8".parse().unwrap());
    for limit in [1, 2, 9] {
        let then = |seconds| pages(&rib, &request(within, Some(seconds), limit));
        assert_eq!(then(15), ["a 10.0.0.0/8 [1]", "a 10.1.0.0/16 [2]"]);
        assert_eq!(then(25), ["a 10.0.0.0/8 [1]"]);
        assert_eq!(
            then(30),
            ["a 10.0.0.0/8 [1]", "a 10.1.0.0/16 [3]", "a 10.2.0.0/16 [3]"]
        );
    }
}

#[test]
fn a_time_before_the_history_is_said_to_be_unknown() {
    let limits = RibLimits {
        history: crate::history::HistoryLimits {
            bytes: 3 * 56,
            age: Duration::from_secs(100),
        },
        ..RibLimits::default()
    };
    let mut rib = Rib::bounded(limits, 1, at(5));
    rib.add(NeighborConfig {
        id: A,
        egress: "a".into(),
        max_prefixes: 10,
    });
    rib.session_up(A, 1, &negotiated(), at(6));
    for step in 10..20 {
        let asn = u32::try_from(step).unwrap();
        apply(&mut rib, 1, &announce(&["10.0.0.0/8"], &[asn]), step);
    }
    let all = |seconds| pages(&rib, &request(RibQuery::All, Some(seconds), 9));
    assert_eq!(all(15), ["known since 16"]);
    assert_eq!(all(16), ["a 10.0.0.0/8 [16]"]);
    assert_eq!(all(18), ["a 10.0.0.0/8 [18]"]);
    assert_eq!(
        rib.attribute_sets(),
        4,
        "the current set and three of the past"
    );
    rib.expire(at(200));
    assert_eq!(rib.attribute_sets(), 1, "the past is bounded by age too");
    let all = |seconds| pages(&rib, &request(RibQuery::All, Some(seconds), 9));
    assert_eq!(all(18), ["known since 19"]);
}

/// Every state that the RIB was in, asked for afterwards, page by page and piece by piece.
#[test]
fn the_past_agrees_with_what_was_seen_then() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rib = rib(1000);
    rib.session_up(A, 1, &negotiated(), at(0));
    rib.session_up(B, 2, &negotiated(), at(0));
    let mut seen = Vec::new();
    for step in 1..300_u64 {
        let prefix = format!("10.{}.0.0/16", random.below(12));
        let id = Some(random.below(3));
        let path_id = (random.below(2) == 0).then_some(id).flatten();
        let nlri = Nlri {
            prefix: prefix.parse().unwrap(),
            path_id,
        };
        // Path identifiers on one session only, and there on all prefixes.
        let (neighbor, session, nlri) = match path_id {
            Some(_) => (B, 2, nlri),
            None => (A, 1, nlri),
        };
        let mut update = if random.below(3) == 0 {
            withdraw(&[&prefix])
        } else {
            announce(&[&prefix], &[1 + random.below(3)])
        };
        update.withdrawn.iter_mut().for_each(|to| *to = nlri);
        for routes in &mut update.announced {
            routes.nlri = vec![nlri];
        }
        rib.apply(neighbor, session, &update, at(step));
        seen.push((step, pages(&rib, &request(RibQuery::All, None, 5))));
    }
    for (step, now) in seen {
        let then = pages(&rib, &request(RibQuery::All, Some(step), 4));
        assert_eq!(then, now, "step {step}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % below).unwrap()
    }
}

fn path(prefix: &str, id: u32, asns: &[u32]) -> Update {
    let mut update = announce(&[prefix], asns);
    update.announced[0].nlri[0].path_id = Some(id);
    update
}

/// RFC 7911: paths come and go by identifier; facts are about the best.
#[test]
fn of_several_paths_the_best_is_told() {
    let mut rib = rib(3);
    watch(&mut rib, &["10.0.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    assert_eq!(
        apply(&mut rib, 1, &path("10.0.0.0/8", 7, &[1, 2]), 1),
        [
            "none -> 10.0.0.0/8 [1 2] for 10.0.0.1",
            "10.0.0.1 by a: 10.0.0.0/8 [1 2]"
        ]
    );
    assert!(apply(&mut rib, 1, &path("10.0.0.0/8", 8, &[3, 4, 5]), 2).is_empty());
    assert_eq!(
        apply(&mut rib, 1, &path("10.0.0.0/8", 9, &[6]), 3),
        [
            "10.0.0.0/8 [1 2] -> 10.0.0.0/8 [6] for 10.0.0.1",
            "10.0.0.1 by a: 10.0.0.0/8 [6]"
        ]
    );
    assert_eq!(
        pages(
            &rib,
            &request(RibQuery::Address("10.1.1.1".parse().unwrap()), None, 9)
        ),
        [
            "a 10.0.0.0/8#7 [1 2]",
            "a 10.0.0.0/8#8 [3 4 5]",
            "a 10.0.0.0/8#9 [6]"
        ]
    );
    let (_, exceeded) = rib.apply(A, 1, &path("10.0.0.0/8", 10, &[6]), at(3));
    assert!(
        exceeded.is_some(),
        "paths count for the limit, so that they are bounded"
    );
    let mut gone = withdraw(&["10.0.0.0/8"]);
    gone.withdrawn[0].path_id = Some(9);
    assert_eq!(
        apply(&mut rib, 1, &gone, 4),
        [
            "10.0.0.0/8 [6] -> 10.0.0.0/8 [1 2] for 10.0.0.1",
            "10.0.0.1 by a: 10.0.0.0/8 [1 2]"
        ]
    );
    assert!(
        apply(&mut rib, 1, &gone, 5).is_empty(),
        "it is gone already"
    );
    assert_eq!(rib.status(A).ipv4, 1);
    // A new session announces only the longest again.
    rib.session_up(A, 2, &negotiated(), at(6));
    apply(&mut rib, 2, &path("10.0.0.0/8", 8, &[3, 4, 5]), 7);
    apply(&mut rib, 2, &end(), 8);
    assert_eq!(
        pages(&rib, &request(RibQuery::All, None, 9)),
        ["a 10.0.0.0/8#8 [3 4 5]"]
    );
    rib.expire(at(10_000));
    assert_eq!(rib.attribute_sets(), 1);
}

/// Between BoRR and EoRR nothing is worse for not having been sent again yet.
#[test]
fn a_refresh_does_not_change_which_of_several_paths_is_best() {
    let mut rib = rib(9);
    watch(&mut rib, &["10.0.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &path("10.0.0.0/8", 7, &[1]), 1);
    apply(&mut rib, 1, &path("10.0.0.0/8", 8, &[2, 3]), 1);
    apply(&mut rib, 1, &end(), 1);
    rib.refresh_began(A, 1, Family::Ipv4);
    assert!(apply(&mut rib, 1, &path("10.0.0.0/8", 8, &[2, 3]), 2).is_empty());
    assert!(apply(&mut rib, 1, &path("10.0.0.0/8", 7, &[1]), 3).is_empty());
    assert!(rib.refresh_ended(A, 1, Family::Ipv4).is_empty());
    // What the last session announced is worse.
    rib.session_up(A, 2, &negotiated(), at(4));
    assert_eq!(
        apply(&mut rib, 2, &path("10.0.0.0/8", 8, &[2, 3]), 5),
        [
            "10.0.0.0/8 [1] -> 10.0.0.0/8 [2 3] for 10.0.0.1",
            "10.0.0.1 by a: 10.0.0.0/8 [2 3]"
        ]
    );
}

/// The past of paths stays theirs when a session without path identifiers comes.
#[test]
fn a_route_without_identifier_takes_the_place_of_paths_and_of_no_route() {
    let mut rib = rib(9);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &path("10.0.0.0/8", 7, &[1]), 1);
    apply(&mut rib, 1, &path("10.0.0.0/8", 8, &[2, 3]), 1);
    rib.session_up(A, 2, &negotiated(), at(4));
    apply(&mut rib, 2, &announce(&["10.0.0.0/8"], &[4]), 5);
    assert_eq!(
        pages(&rib, &request(RibQuery::All, None, 9)),
        ["a 10.0.0.0/8 [4]"]
    );
    assert_eq!(
        pages(&rib, &request(RibQuery::All, Some(3), 9)),
        ["a 10.0.0.0/8#7 [1]", "a 10.0.0.0/8#8 [2 3]"]
    );
}

#[test]
fn without_memory_routes_of_nobody_are_left_out_and_all_is_said_to_be_partial() {
    let limits = RibLimits {
        memory: Some(20_000),
        ..RibLimits::default()
    };
    let mut rib = Rib::bounded(limits, 1, at(0));
    rib.add(NeighborConfig {
        id: A,
        egress: "a".into(),
        max_prefixes: 100_000,
    });
    watch(&mut rib, &["192.0.2.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    let mut stored = 0;
    for number in 0..2000_u32 {
        let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
        apply(&mut rib, 1, &announce(&[&prefix], &[1, number + 1]), 1);
        stored = stored.max(rib.status(A).ipv4);
    }
    assert!(rib.memory().short, "{:?}", rib.memory());
    assert!((100..1900).contains(&stored), "{stored}");
    assert!(rib.status(A).partial);
    assert_eq!(
        apply(&mut rib, 1, &announce(&["192.0.2.0/24"], &[1, 2]), 2),
        [
            "none -> 192.0.2.0/24 [1 2] for 192.0.2.1",
            "192.0.2.1 by a: 192.0.2.0/24 [1 2]"
        ],
        "what covers a watched address is stored nevertheless"
    );
    assert_eq!(apply(&mut rib, 1, &end(), 3), ["end ipv6=false"]);
    assert!(
        watch(&mut rib, &["192.0.2.1", "10.7.255.1"]).is_empty(),
        "that there is no route for it is not known"
    );
    let before = rib.status(A).ipv4;
    apply(&mut rib, 1, &announce(&["10.0.0.0/24"], &[1, 9]), 4);
    assert_eq!(
        rib.status(A).ipv4,
        before - 1,
        "one that is announced anew goes"
    );
    let (signals, _) = rib.apply(A, 1, &withdraw(&["10.0.1.0/24"]), at(5));
    assert!(signals.is_empty());
    let partial = |rib: &Rib, seconds| {
        let mut walk = rib.walk(request(RibQuery::All, seconds, 1));
        while !rib.advance(&mut walk, 64) {}
        rib.page(walk).partial
    };
    assert!(partial(&rib, None) && partial(&rib, Some(1)) && !partial(&rib, Some(0)));
    rib.session_up(A, 2, &negotiated(), at(6));
    assert!(!rib.status(A).partial, "the next session begins anew");
    rib.tick(at(7));
    assert!(!partial(&rib, None) && !partial(&rib, Some(6)));
    assert!(
        partial(&rib, Some(5)) && !partial(&rib, Some(0)),
        "what was left out then is not in the past either"
    );
}

#[test]
fn a_burst_is_told_once_it_is_one_and_again_while_it_grows() {
    let mut rib = rib(10_000);
    rib.session_up(A, 1, &negotiated(), at(0));
    let prefix = |number: u32| format!("10.{}.{}.0/24", number / 256, number % 256);
    for number in 0..200 {
        // Half of the routes by AS 2, and of these all by the link to AS 3.
        let path: &[u32] = match number % 4 {
            0 => &[1, 2, 3],
            1 => &[1, 2, 3, 4],
            2 => &[1, 5],
            _ => &[1, 6, 7],
        };
        apply(&mut rib, 1, &announce(&[&prefix(number)], path), 1);
    }
    apply(&mut rib, 1, &announce(&["11.0.0.0/8"], &[1, 2]), 1);
    apply(&mut rib, 1, &end(), 2);
    let burst = |signals: &[BgpSignal]| {
        let burst = signals.iter().find_map(|signal| match signal {
            BgpSignal::Burst(burst) => Some(burst.clone()),
            _ => None,
        });
        burst.map(|burst| (burst.prefixes, burst.links.first().map(|best| best.link)))
    };
    let mut told = Vec::new();
    for number in (0..200).filter(|number| number % 4 < 2) {
        let update = match number % 8 {
            0 => announce(&[&prefix(number)], &[1, 6, 3]),
            _ => withdraw(&[&prefix(number)]),
        };
        let (signals, _) = rib.apply(
            A,
            1,
            &update,
            Timestamp::from_millis(20_000 + u64::from(number)),
        );
        told.extend(burst(&signals));
    }
    let due = rib.deadline().unwrap();
    told.extend(burst(&rib.expire(due)));
    let link = Some((Asn(2), Asn(3)));
    assert_eq!(told.first(), Some(&(5, link)));
    assert_eq!(told.last(), Some(&(100, link)));
    assert!((3..6).contains(&told.len()), "{told:?}");
    assert_eq!(burst(&rib.expire(at(40))), None, "it is over");
    assert_eq!(rib.deadline(), Some(at(120)), "only for IPv6's marker");
    // Routes that are new, or come back, are no burst.
    let new: Vec<String> = (200..400).map(prefix).collect();
    for prefix in new {
        let (signals, _) = rib.apply(A, 1, &announce(&[&prefix], &[1, 2, 3]), at(50));
        assert_eq!(burst(&signals), None);
    }
}

#[test]
fn a_lost_session_is_no_burst_nor_is_what_the_next_lacks() {
    let mut rib = rib(10_000);
    let prefixes: Vec<String> = (0..100).map(|n| format!("10.{n}.0.0/16")).collect();
    let all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&all, &[1, 2]), 1);
    apply(&mut rib, 1, &end(), 1);
    assert_eq!(
        said(&rib.session_down(A, 1, SessionDownReason::HoldTimerExpired)),
        ["down a"]
    );
    rib.session_up(A, 2, &negotiated(), at(2));
    apply(&mut rib, 2, &announce(&all[..50], &[1, 3]), 3);
    assert_eq!(apply(&mut rib, 2, &end(), 4), ["end ipv6=false"]);
    assert_eq!(rib.status(A).ipv4, 50);
}

#[test]
fn vrps_validate_facts_and_a_change_of_them_is_told() {
    use events::OriginValidation::{Invalid, Valid};
    let mut rib = rib(100);
    watch(&mut rib, &["10.1.0.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&["10.1.0.0/16"], &[1, 2]), 1);
    let validation = |signals: &[BgpSignal]| -> Vec<_> {
        let fact = |signal: &BgpSignal| match signal {
            BgpSignal::Fact(fact) => fact.route.as_ref().and_then(|route| route.validation),
            BgpSignal::Change(change) => change.new.as_ref().and_then(|route| route.validation),
            _ => None,
        };
        signals.iter().filter_map(fact).collect()
    };
    let vrp = |length| crate::Vrp::new("10.1.0.0/16".parse().unwrap(), length, Asn(2)).unwrap();
    rib.set_vrps(std::sync::Arc::new([vrp(16)].into_iter().collect()));
    assert_eq!(rib.deadline(), Some(Timestamp::ZERO), "there is work");
    assert_eq!(validation(&rib.expire(at(2))), [Valid]);
    // A more specific by another AS, and the origin changed.
    let (signals, _) = rib.apply(A, 1, &announce(&["10.1.0.0/24"], &[1, 666]), at(3));
    assert_eq!(validation(&signals), [Invalid, Invalid]);
    let routes = rib.routes(RibQuery::Address("10.1.0.1".parse().unwrap()), 9);
    assert_eq!(routes[0].route.validation, Some(Invalid));
    rib.set_vrps(std::sync::Arc::default());
    let signals = rib.expire(at(4));
    assert_eq!((signals.len(), validation(&signals).len()), (1, 0));
}

#[test]
fn a_large_stale_table_is_swept_in_pieces() {
    let mut rib = rib(100_000);
    let prefixes: Vec<String> = (0..10_000_u32)
        .map(|n| format!("10.{}.{}.0/24", n / 256, n % 256))
        .collect();
    let all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    watch(&mut rib, &["10.39.15.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    apply(&mut rib, 1, &announce(&all, &[1, 2]), 1);
    rib.session_down(A, 1, SessionDownReason::HoldTimerExpired);
    rib.session_up(A, 2, &negotiated(), at(2));
    apply(&mut rib, 2, &announce(&all[..10], &[1, 2]), 3);
    apply(&mut rib, 2, &end(), 4);
    assert!(rib.status(A).ipv4 > 5000, "not all at once");
    let mut said_last = Vec::new();
    while rib.deadline() == Some(Timestamp::ZERO) {
        said_last.extend(said(&rib.expire(at(4))));
    }
    assert_eq!(rib.status(A).ipv4, 10);
    assert_eq!(
        said_last,
        [
            "10.39.15.0/24 [1 2] -> none for 10.39.15.1",
            "10.39.15.1 by a: none"
        ]
    );
}

/// A table that lacks routes is asked for when there is memory, and whole when nothing was left out.
#[test]
fn what_was_left_out_comes_back_with_a_refresh_when_there_is_memory() {
    let limits = RibLimits {
        memory: Some(60_000),
        history: crate::history::HistoryLimits {
            bytes: 0,
            age: Duration::ZERO,
        },
    };
    let mut rib = Rib::bounded(limits, 1, at(0));
    rib.add(NeighborConfig {
        id: A,
        egress: "a".into(),
        max_prefixes: 100_000,
    });
    watch(&mut rib, &["192.0.2.1"]);
    rib.session_up(A, 1, &negotiated(), at(0));
    let prefixes: Vec<String> = (0..2000)
        .map(|number| format!("10.{}.{}.0/24", number / 256, number % 256))
        .collect();
    for (prefix, number) in prefixes.iter().zip(1..) {
        apply(&mut rib, 1, &announce(&[prefix], &[1, number]), 1);
    }
    apply(&mut rib, 1, &end(), 1);
    assert!(rib.status(A).partial && rib.memory().short);
    rib.expire(at(20));
    assert!(rib.take_refreshes().is_empty(), "there is no memory yet");
    for prefix in &prefixes {
        apply(&mut rib, 1, &withdraw(&[prefix]), 21);
    }
    rib.expire(at(32));
    rib.expire(at(40));
    assert!(!rib.memory().short, "{:?}", rib.memory());
    let ipv4 = Families {
        ipv4: true,
        ipv6: false,
    };
    assert_eq!(rib.take_refreshes(), [(A, ipv4)]);
    rib.expire(at(60));
    assert!(rib.take_refreshes().is_empty(), "not again so soon");
    // Too much again: it stays partial.
    rib.refresh_began(A, 1, Family::Ipv4);
    for (prefix, number) in prefixes.iter().zip(1..) {
        apply(&mut rib, 1, &announce(&[prefix], &[1, number]), 61);
    }
    rib.refresh_ended(A, 1, Family::Ipv4);
    assert!(rib.status(A).partial);
    for prefix in &prefixes {
        apply(&mut rib, 1, &withdraw(&[prefix]), 62);
    }
    rib.expire(at(100));
    rib.expire(at(700));
    assert_eq!(rib.take_refreshes(), [(A, ipv4)]);
    // A neighbour without marks: what it sent in two minutes is all.
    rib.refresh_asked(A, 1, Family::Ipv4);
    apply(&mut rib, 1, &announce(&["10.0.0.0/24"], &[1]), 701);
    rib.expire(at(819));
    assert!(rib.status(A).partial);
    assert_eq!(said(&rib.expire(at(821))), ["192.0.2.1 by a: none"]);
    assert!(!rib.status(A).partial);
    assert_eq!(rib.deadline(), None);
}
