//! Probes in real network namespaces. Needs root.

mod lab;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use events::{HostSignal, ProbeOutcome, ProbeRequest, ProbeSource, ProbeTarget};
use lab::{ANCHORS, Lab, PI, Running, always_on, ip, path};
use probing::{Settings, check};

#[test]
fn every_path_is_answered_and_pinned_also_where_answers_return_elsewhere() {
    let lab = Lab::new();
    let [v4, v6] = PI;
    let mut rules = "nft add table inet t; nft add chain inet t c '{ type filter hook prerouting priority 0; }'\n".to_owned();
    for n in [0, 1] {
        for (name, matches) in [
            (format!("flow4_{n}"), format!("ip saddr {v4}")),
            (format!("flow6_{n}"), format!("ip6 saddr {v6}")),
            (
                format!("link4_{n}"),
                format!("ip saddr 10.9.{n}.2 ip daddr {}", ANCHORS[0]),
            ),
            (
                format!("link6_{n}"),
                format!("ip6 saddr fd09:{n}::2 ip6 daddr {}", ANCHORS[1]),
            ),
        ] {
            rules += &format!(
                "nft add counter inet t {name}; nft add rule inet t c iifname gw{n} {matches} counter name {name}\n"
            );
        }
    }
    lab.net.sh(&rules);
    let mut running = lab.start(Lab::settings());
    running.until("ten replies on every path", |r| {
        always_on().iter().all(|p| r.replies(p) >= 10)
    });
    let counters = running.handle.counters();
    assert_eq!((counters.results_dropped, counters.refused), (0, 0));
    let running = running.stop();
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        for (family, anchor) in [4, 6].into_iter().zip(ANCHORS) {
            for (kind, source) in [("link", ProbeSource::Link), ("flow", ProbeSource::Flow)] {
                let path = (name.to_owned(), ProbeTarget::Anchor(ip(anchor)), source);
                let finished = running.count(&path, |_| true);
                let seen = lab.net.counted(&format!("{kind}{family}_{n}"));
                let seen = usize::try_from(seen).unwrap();
                // One more may have been on its way.
                assert!(
                    (finished..=finished + 1).contains(&seen),
                    "{path:?}: {finished} finished, {seen} seen on the uplink"
                );
            }
        }
    }
    for result in &running.all {
        let expected = match (result.source, result.target.address().is_ipv4()) {
            (ProbeSource::Flow, true) => ip(v4),
            (ProbeSource::Flow, false) => ip(v6),
            (ProbeSource::Link, v4) => {
                let n = u8::from(result.egress.0 == "b");
                ip(&if v4 {
                    format!("10.9.{n}.2")
                } else {
                    format!("fd09:{n}::2")
                })
            }
        };
        assert_eq!(result.source_address, expected, "{result:?}");
    }
}

#[test]
fn a_silent_uplink_loses_probes_and_the_other_does_not() {
    let lab = Lab::new();
    let mut running = lab.start(Lab::settings());
    running.until("every path is known", |r| {
        always_on().iter().all(|p| r.replies(p) >= 5)
    });
    lab.net.sh("nft add table netdev d
        nft add chain netdev d c '{ type filter hook ingress device gw0 priority 0; }'
        nft add rule netdev d c icmp type echo-request drop
        nft add rule netdev d c icmpv6 type echo-request drop");
    running.forget();
    running.until("losses on a", |r| {
        always_on()
            .iter()
            .filter(|p| p.0 == "a")
            .all(|p| r.lost(p) >= 3)
    });
    running.until("replies on b", |r| {
        always_on()
            .iter()
            .filter(|p| p.0 == "b")
            .all(|p| r.replies(p) >= 3)
    });
    lab.net.sh("nft flush ruleset");
    running.forget();
    running.until("replies everywhere", |r| {
        always_on().iter().all(|p| r.replies(p) >= 3)
    });
}

#[test]
fn a_dead_way_back_shows_only_with_the_flows_source() {
    let lab = Lab::new();
    let mut running = lab.start(Lab::settings());
    running.until("every path is known", |r| {
        always_on().iter().all(|p| r.replies(p) >= 5)
    });
    let [v4, v6] = PI;
    lab.net.sh(&format!(
        "nft add table inet d; nft add chain inet d c '{{ type filter hook output priority 0; }}'
        nft add rule inet d c ip daddr {v4} drop; nft add rule inet d c ip6 daddr {v6} drop"
    ));
    std::thread::sleep(Duration::from_millis(100));
    running.forget();
    running.until("flow probes are lost", |r| {
        always_on()
            .iter()
            .filter(|p| p.2 == ProbeSource::Flow)
            .all(|p| r.lost(p) >= 3)
    });
    for path in always_on() {
        if path.2 == ProbeSource::Flow {
            assert_eq!(running.replies(&path), 0, "{path:?}");
        } else {
            assert!(running.replies(&path) > 0, "{path:?}");
        }
    }
}

#[test]
fn a_burst_at_suspects_has_its_number_of_results() {
    let lab = Lab::new();
    let mut settings = Lab::settings();
    settings.anchors.clear();
    let mut running = lab.start(settings);
    running
        .handle
        .probe(ProbeRequest {
            targets: ANCHORS.map(ip).to_vec(),
            flow_sources: PI.map(ip).to_vec(),
            egresses: vec!["a".into(), "b".into(), "unknown".into()],
            sources: vec![ProbeSource::Link, ProbeSource::Flow],
            count: 3,
            spacing: Duration::from_millis(15),
        })
        .unwrap();
    let suspects = |r: &Running| {
        let of = |t: &ProbeTarget| matches!(t, ProbeTarget::Suspect(_));
        r.all
            .iter()
            .filter(|r| of(&r.target))
            .cloned()
            .collect::<Vec<_>>()
    };
    running.until("24 results", |r| suspects(r).len() >= 24);
    std::thread::sleep(Duration::from_millis(200));
    running.collect();
    let results = suspects(&running);
    assert_eq!(results.len(), 24, "{results:#?}");
    assert!(
        results
            .iter()
            .all(|r| matches!(r.outcome, ProbeOutcome::Reply { .. })),
        "{results:#?}"
    );
    let mut paths: Vec<_> = results.iter().map(path).collect();
    paths.sort();
    for of in paths.chunks(3) {
        assert!(of.iter().all(|p| *p == of[0]), "{of:?}");
    }
    paths.dedup();
    assert_eq!(paths.len(), 8);
    assert_eq!(running.handle.counters().suspects_dropped, 12);
    let status = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(running.handle.status());
    assert_eq!(
        status
            .iter()
            .filter(|s| s.sent == 3 && s.rtt.is_some())
            .count(),
        8,
        "{status:#?}"
    );
}

#[test]
fn carrier_and_interfaces_that_come_and_go() {
    let carrier = |egress: &str, up| HostSignal::Carrier {
        egress: egress.into(),
        up,
    };
    let lab = Lab::new();
    let mut running = lab.start(Lab::settings());
    running.until("first words", |r| r.told.len() >= 2);
    assert_eq!(running.told[..2], [carrier("a", true), carrier("b", true)]);
    running.forget();
    lab.net.sh("ip link set gw0 down");
    running.until("carrier lost", |r| r.told.contains(&carrier("a", false)));
    lab.net.sh("ip link set gw0 up");
    running.until("carrier back", |r| r.told.contains(&carrier("a", true)));
    running.forget();

    lab.host.sh("ip link delete wan1");
    let flow_b = (
        "b".to_owned(),
        ProbeTarget::Anchor(ip(ANCHORS[0])),
        ProbeSource::Flow,
    );
    let gateway_b = (
        "b".to_owned(),
        ProbeTarget::Gateway(ip("10.9.1.1")),
        ProbeSource::Link,
    );
    let no_device = |o: &ProbeOutcome| {
        *o == ProbeOutcome::Refused {
            errno: libc::ENODEV,
        }
    };
    running.until("refused without the interface", |r| {
        r.told.contains(&carrier("b", false))
            && r.count(&flow_b, no_device) >= 3
            && r.count(&gateway_b, no_device) >= 3
    });
    running.forget();
    std::thread::sleep(Duration::from_secs(1));
    running.collect();
    let refusals = running.count(&gateway_b, no_device);
    assert!((1..=8).contains(&refusals), "{refusals} of 50 a second");

    lab.uplink(1);
    running.until("answers on the new interface", |r| {
        r.told.contains(&carrier("b", true)) && r.replies(&gateway_b) >= 3
    });
}

#[test]
fn a_state_that_finds_no_room_waits() {
    let lab = Lab::new();
    let (sink, _results) = probing::results(1);
    let (host_sink, mut signals) = tokio::sync::mpsc::channel(1);
    let settings = Lab::settings();
    let handle = lab
        .host
        .run(move || probing::Prober::spawn(settings, sink, host_sink).unwrap());
    std::thread::sleep(Duration::from_millis(1500));
    let mut heard = Vec::new();
    let start = Instant::now();
    while heard.len() < 6 {
        assert!(start.elapsed() < lab::PATIENCE, "{heard:?}");
        let states = std::iter::from_fn(|| signals.try_recv().ok())
            .filter(|s| !matches!(s, HostSignal::Lost { .. } | HostSignal::TimerLag { .. }));
        heard.extend(states);
        std::thread::sleep(Duration::from_millis(1));
    }
    for n in ["a", "b"] {
        let up = HostSignal::Carrier {
            egress: n.into(),
            up: true,
        };
        assert_eq!(heard.iter().filter(|s| **s == up).count(), 1, "{heard:?}");
    }
    let neighbors = heard.iter();
    let neighbors = neighbors.filter(|s| {
        matches!(
            s,
            HostSignal::Neighbor {
                reachable: true,
                ..
            }
        )
    });
    assert_eq!(neighbors.count(), 4, "{heard:?}");
    assert!(handle.counters().results_dropped > 0);
    handle.stop();
}

#[test]
fn an_interface_may_come_after_the_start() {
    let lab = Lab::new();
    lab.host.sh("ip link delete wan1");
    let mut running = lab.start(Lab::settings());
    let gateway_b = (
        "b".to_owned(),
        ProbeTarget::Gateway(ip("fd09:1::1")),
        ProbeSource::Link,
    );
    running.until("a refusal", |r| {
        r.count(&gateway_b, |o| matches!(o, ProbeOutcome::Refused { .. })) > 0
    });
    lab.uplink(1);
    running.until("answers", |r| r.replies(&gateway_b) >= 3);
}

#[test]
fn neighbors_that_fail_and_return() {
    let lab = Lab::new();
    let neighbor = |gateway: &str, reachable| HostSignal::Neighbor {
        egress: "a".into(),
        gateway: ip(gateway),
        reachable,
    };
    let settings = Settings {
        enabled: false,
        ..Lab::settings()
    };
    let mut running = lab.start(settings);
    for gateway in ["10.9.0.1", "fd09:0::1"] {
        lab.host.sh(&format!(
            "ip neigh replace {gateway} dev wan0 lladdr 02:00:00:00:00:01 nud reachable"
        ));
        running.until("reachable", |r| r.told.contains(&neighbor(gateway, true)));
        lab.host
            .sh(&format!("ip neigh change {gateway} dev wan0 nud failed"));
        running.until("failed", |r| r.told.contains(&neighbor(gateway, false)));
    }
    running.collect();
    assert!(running.all.is_empty());
    assert_eq!(running.handle.counters().sent, 0);
}

#[test]
fn refusals_of_routers_are_told_with_their_errno() {
    let lab = Lab::new();
    lab.net.sh(
        "ip route add unreachable 203.0.113.9/32; ip -6 route add unreachable 2001:db8:5::9/128",
    );
    let mut settings = Settings {
        anchors: vec![ip("203.0.113.9"), ip("2001:db8:5::9")],
        ..Lab::settings()
    };
    // One egress alone: routers answer each source so and so often, whichever uplink it used.
    settings.egresses.remove(0);
    let mut running = lab.start(settings);
    for (anchor, errno) in [
        ("203.0.113.9", libc::EHOSTUNREACH),
        ("2001:db8:5::9", libc::ENETUNREACH),
    ] {
        for source in [ProbeSource::Link, ProbeSource::Flow] {
            let path = ("b".to_owned(), ProbeTarget::Anchor(ip(anchor)), source);
            running.until("unreachable", |r| {
                r.count(&path, |o| *o == ProbeOutcome::Refused { errno }) > 0
            });
        }
    }
}

#[test]
fn without_an_egress_or_when_disabled_nothing_is_sent() {
    let lab = Lab::new();
    lab.host
        .sh("nft add table inet t; nft add counter inet t out
        nft add chain inet t c '{ type filter hook output priority 0; }'
        nft add rule inet t c icmp type echo-request counter name out
        nft add rule inet t c icmpv6 type echo-request counter name out");
    let raw = |lab: &Lab| {
        lab.host.sh("cat /proc/thread-self/net/raw /proc/thread-self/net/raw6 | grep -vc local_address || true").trim().to_owned()
    };
    let netlink = |lab: &Lab| {
        lab.host
            .sh("wc -l < /proc/thread-self/net/netlink")
            .trim()
            .to_owned()
    };
    let (before_raw, before_netlink) = (raw(&lab), netlink(&lab));
    assert_eq!(before_raw, "0");
    let none = lab.start(Settings {
        egresses: Vec::new(),
        ..Lab::settings()
    });
    assert_eq!(
        (raw(&lab), netlink(&lab)),
        (before_raw.clone(), before_netlink)
    );
    let disabled = lab.start(Settings {
        enabled: false,
        ..Lab::settings()
    });
    assert_eq!(raw(&lab), before_raw);
    for running in [&none, &disabled] {
        running
            .handle
            .probe(ProbeRequest {
                targets: vec![ip(ANCHORS[0])],
                flow_sources: vec![ip(PI[0])],
                egresses: vec!["a".into()],
                sources: vec![ProbeSource::Flow],
                count: 3,
                spacing: Duration::ZERO,
            })
            .unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    for mut running in [none, disabled] {
        running.collect();
        assert!(running.all.is_empty());
        let counters = running.handle.counters();
        assert_eq!((counters.sent, counters.refused), (0, 0));
        assert!(counters.suspects_dropped > 0);
    }
    assert_eq!(lab.host.counted("out"), 0);
    let mut enabled = lab.start(Lab::settings());
    enabled.until("a reply", |r| !r.all.is_empty());
    assert!(lab.host.counted("out") > 0, "the counter counts");
}

#[test]
fn the_check_names_what_is_missing() {
    let lab = Lab::new();
    let checks = lab.host.run(|| check(&Lab::settings()).unwrap());
    assert_eq!(checks.len(), 2 + 2 * (1 + 1 + 2), "{checks:#?}");
    assert_eq!(problems(&lab), [""; 0]);
    lab.host
        .sh("ip route delete default dev wan1; ip -6 route delete default dev wan1");
    let found = problems(&lab);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains("egress b has no route through its gateway 10.9.1.1"),
        "{found:#?}"
    );
    assert!(
        found[1].contains("egress b has no route through its gateway fd09:1::1"),
        "{found:#?}"
    );
    lab.host.sh("echo 1 > /proc/sys/net/ipv4/conf/wan0/rp_filter; ip link delete wan1; ip address delete 198.51.100.10/32 dev lo");
    let found = problems(&lab);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("flow_sources"), "{found:#?}");
    assert!(found[1].contains("rp_filter=2"), "{found:#?}");
    assert!(found[2].contains("does not exist"), "{found:#?}");
}

fn problems(lab: &Lab) -> Vec<String> {
    let checks = lab.host.run(|| check(&Lab::settings()).unwrap());
    checks.into_iter().filter_map(|c| c.problem).collect()
}

/// Answers pings in the kernel's stead, after a delay in milliseconds that can be changed, until
/// that is `u64::MAX`.
fn slow_responder(delay: &AtomicU64) {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let mut waiting: VecDeque<(Instant, Vec<u8>, SockAddr)> = VecDeque::new();
    loop {
        let millis = delay.load(Ordering::Relaxed);
        if millis == u64::MAX {
            return;
        }
        let mut buffer = [MaybeUninit::new(0u8); 256];
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // SAFETY: every element was initialised above.
            let bytes: Vec<u8> = buffer[20..length]
                .iter()
                .map(|b| unsafe { b.assume_init() })
                .collect();
            if bytes[0] == 8 {
                let mut reply = bytes;
                reply[0] = 0;
                // RFC 1624: the type sank by 8, so the sum's complement rises.
                let sum = u32::from(u16::from_be_bytes([reply[2], reply[3]])) + 0x0800;
                let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
                reply[2..4].copy_from_slice(&folded.to_be_bytes());
                waiting.push_back((Instant::now() + Duration::from_millis(millis), reply, from));
            }
        }
        while waiting
            .front()
            .is_some_and(|(at, ..)| *at <= Instant::now())
        {
            let (_, reply, to) = waiting.pop_front().unwrap();
            socket.send_to(&reply, &to).unwrap();
        }
    }
}

#[test]
fn a_late_answer_follows_its_loss_and_teaches_patience() {
    let lab = Lab::new();
    lab.net
        .sh("echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all");
    let delay = Arc::new(AtomicU64::new(10));
    let responder = {
        let delay = Arc::clone(&delay);
        lab.net
            .run(move || std::thread::spawn(move || slow_responder(&delay)))
    };
    let mut settings = Settings {
        anchors: Vec::new(),
        ..Lab::settings()
    };
    settings.egresses.truncate(1);
    settings.egresses[0].gateways.truncate(1);
    let mut running = lab.start(settings);
    let path = (
        "a".to_owned(),
        ProbeTarget::Gateway(ip("10.9.0.1")),
        ProbeSource::Link,
    );
    running.until("the round trip is known", |r| r.replies(&path) >= 50);
    running.forget();
    delay.store(300, Ordering::Relaxed);
    running.until("losses, and later their answers", |r| {
        r.lost(&path) >= 5 && r.handle.counters().late_replies >= 5 && r.replies(&path) >= 5
    });
    let late = running
        .all
        .iter()
        .enumerate()
        .find(|(_, r)| matches!(r.outcome, ProbeOutcome::Reply { rtt } if rtt > Duration::from_millis(290)));
    let (position, late) = late.expect("an answer after 300 ms");
    let lost = running
        .all
        .iter()
        .position(|r| r.sent_at == late.sent_at && r.outcome == ProbeOutcome::Lost);
    assert!(lost.is_some_and(|l| l < position), "{lost:?} {position}");
    // Patience grows: then the same delay is no loss any more.
    running.until("answers in time", |r| {
        let lost = |at| {
            r.all
                .iter()
                .any(|l| l.sent_at == at && l.outcome == ProbeOutcome::Lost)
        };
        r.all.len() > 100 && r.all.iter().rev().take(20).all(|r| !lost(r.sent_at))
    });
    delay.store(u64::MAX, Ordering::Relaxed);
    responder.join().unwrap();
}
