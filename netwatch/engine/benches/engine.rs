//! How much the engine takes on one core, and how long one look at the evidence lasts:
//! `cargo xtask bench engine`.
//!
//! The load is what the collector tells of connections that are sampled as often as it ever does:
//! every message of every connection is acknowledged in a sample of its own, a third was told of as
//! late before, one in 256 is overdue and answered after a tail loss probe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use correlator::{EgressParams, Params, Thresholds};
use engine::Engine;
use events::{
    Asn, ConnectionId, EgressName, FibChange, FibRoute, Flow, HostSignal, Input, LossStage,
    Outstanding, PeerKey, ProbeOutcome, ProbeResult, ProbeSource, ProbeTarget, RetransmitClass,
    TcpEvent, TcpEventKind, TcpSample, TcpState, Timestamp,
};
use results::{Check, Document, Measure};

/// Messages of one connection come so often.
const GAP: u64 = 50;
/// The collector's batches.
const BATCH: u64 = 5;
const RUNS: usize = 9;
/// Events per second.
const GOAL: f64 = 1e6;

fn main() -> anyhow::Result<()> {
    let mut json = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // `cargo bench` adds `--bench`.
        if argument == "--json" {
            json = arguments.next();
        }
    }
    let mut document = Document::new("bench engine");
    for peers in [100_u64, 1000] {
        let case = format!("peers_{peers}");
        let rates: Vec<f64> = (0..RUNS).map(|_| throughput(peers)).collect();
        let measure = Measure::of("signals_per_second", &case, "1/s", rates);
        let rate = measure.as_ref().and_then(|m| m.p50).unwrap_or_default();
        document.results.extend(measure.map(|mut measure| {
            measure.value = measure.p50;
            measure
        }));
        document.checks.push(Check::new(
            format!("signals_per_second/{case}"),
            rate >= GOAL,
            format!("{rate:.0} events/s through tracker and correlator, {GOAL:.0} wanted"),
        ));
        let ticks = Measure::of("rules_tick_us", &case, "us", ticks(peers));
        document.results.extend(ticks);
    }
    for measure in &document.results {
        println!(
            "{:<20} {:<11} {:>10.1} {} (p99 {:.1}, max {:.1}, n {})",
            measure.metric,
            measure.case,
            measure.p50.unwrap_or_default(),
            measure.unit,
            measure.p99.unwrap_or_default(),
            measure.max.unwrap_or_default(),
            measure.n.unwrap_or_default(),
        );
    }
    for check in &document.checks {
        let outcome = if check.ok { "ok  " } else { "FAIL" };
        println!("{outcome} {}: {}", check.name, check.detail);
    }
    if let Some(file) = json {
        document.write(std::path::Path::new(&file))?;
    }
    if document.checks.iter().any(|check| !check.ok) {
        std::process::exit(1);
    }
    Ok(())
}

fn ms(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn peer(index: u64) -> IpAddr {
    Ipv4Addr::new(203, (index / 250) as u8, (index % 250) as u8, 10).into()
}

fn gateway(egress: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2 + egress, 1).into()
}

fn anchor(index: u8) -> IpAddr {
    Ipv4Addr::new(192, 88, index, 1).into()
}

fn source() -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 10).into()
}

fn event(at: u64, index: u64, kind: TcpEventKind) -> TcpEvent {
    TcpEvent {
        at: ms(at),
        // Cookies are not dense.
        connection: ConnectionId(index.wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF),
        flow: Flow {
            local: SocketAddr::new(source(), 26656),
            remote: SocketAddr::new(peer(index), 26656),
        },
        kind,
    }
}

fn sample(
    sent: u64,
    outstanding: bool,
    acked: Option<u64>,
    index: u64,
    jitter: u64,
) -> TcpEventKind {
    let rtt = Duration::from_millis(5 + index % 100);
    TcpEventKind::Sample(TcpSample {
        outstanding: outstanding.then(|| Outstanding { since: ms(sent) }),
        acked_at: acked.map(ms),
        sent_at: Some(ms(sent)),
        received_at: acked.map(ms),
        srtt: rtt,
        mdev: Duration::from_millis(2),
        min_rtt: rtt,
        last_rtt: Some(rtt + Duration::from_micros(jitter % 1500)),
        zero_window: false,
    })
}

fn warm(peers: u64) -> Engine {
    let egresses: Vec<EgressParams> = ["a", "b"]
        .into_iter()
        .zip([0, 1])
        .map(|(name, index)| EgressParams {
            name: EgressName::from(name),
            gateways: vec![gateway(index)],
        })
        .collect();
    let mut engine = Engine::new(engine::Params {
        tracker: tracker::Params::default(),
        correlator: Params {
            run_id: "bench".to_owned(),
            egresses,
            anchors: (0..4)
                .map(|i| (anchor(i), Asn(64_800 + u32::from(i))))
                .collect(),
            flow_sources: vec![source()],
            local_as: None,
            probes: true,
            thresholds: Thresholds::default(),
        },
        policy: remediation::Policy::default(),
    });
    for index in 0..peers {
        let opened = TcpEventKind::Found {
            state: TcpState::Established,
            owner: None,
        };
        engine.handle(ms(0), Input::Tcp(event(0, index, opened)));
        let key = PeerKey(peer(index));
        engine.handle(
            ms(0),
            Input::Fib(FibChange {
                peer: key,
                source: source(),
                route: Some(FibRoute {
                    prefix: "0.0.0.0/0".parse().expect("a prefix"),
                    table: 254,
                    metric: 100,
                    protocol: 4,
                    interface: "wan-a".to_owned(),
                    gateway: Some(gateway(0)),
                    egress: Some(EgressName::from("a")),
                    ours: false,
                }),
            }),
        );
    }
    engine.handle_timeout(ms(0));
    engine
}

/// Two seconds of virtual time of all connections, in batches.
fn load(peers: u64) -> Vec<Vec<TcpEvent>> {
    let mut events: Vec<TcpEvent> = Vec::new();
    let mut drawn = 1_u64;
    for index in 0..peers {
        let rtt = 5 + index % 100;
        for message in 1..=(2000 / GAP) {
            drawn = drawn
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let chance = drawn >> 33;
            let sent = message * GAP + index % GAP;
            let late = sent + rtt + 15;
            let acked = sent + rtt;
            if chance.is_multiple_of(256) {
                let overdue = sent + rtt + 60;
                for at in [late, overdue - 10, overdue] {
                    events.push(event(at, index, sample(sent, true, None, index, chance)));
                }
                let class = RetransmitClass::TailLossProbe;
                events.push(event(
                    overdue + 1,
                    index,
                    TcpEventKind::Retransmitted { class },
                ));
                let acked = overdue + rtt;
                events.push(event(
                    acked,
                    index,
                    sample(sent, false, Some(acked), index, chance),
                ));
                continue;
            }
            let acked = if chance.is_multiple_of(3) {
                events.push(event(late, index, sample(sent, true, None, index, chance)));
                acked + 18
            } else {
                acked
            };
            events.push(event(
                acked,
                index,
                sample(sent, false, Some(acked), index, chance),
            ));
        }
    }
    events.sort_by_key(|event| event.at);
    let mut batches: Vec<Vec<TcpEvent>> = Vec::new();
    for event in events {
        let batch = (event.at.as_nanos() / 1_000_000 / BATCH) as usize;
        if batches.len() <= batch {
            batches.resize_with(batch + 1, Vec::new);
        }
        if let Some(batch) = batches.get_mut(batch) {
            batch.push(event);
        }
    }
    batches
}

/// Events per second of real time.
fn throughput(peers: u64) -> f64 {
    let mut engine = warm(peers);
    let batches = load(peers);
    let count: usize = batches.iter().map(Vec::len).sum();
    let begun = Instant::now();
    for (number, batch) in batches.into_iter().enumerate() {
        let at = ms((number as u64 + 1) * BATCH);
        for event in batch {
            engine.handle(at, Input::Tcp(event));
        }
        engine.handle_timeout(at);
        while engine.poll_effect().is_some() {}
    }
    let took = begun.elapsed();
    let told = engine.tracker().counters();
    assert!(told.overdue > 0 && told.stale_samples * 10 < told.events);
    count as f64 / took.as_secs_f64()
}

/// Looks at the evidence while everything through the first uplink is silent, in microseconds each.
fn ticks(peers: u64) -> Vec<f64> {
    let mut engine = warm(peers);
    let mut ticks = Vec::new();
    let cut = 2_000;
    for at in (BATCH..3_500).step_by(BATCH as usize) {
        let now = ms(at);
        for index in 0..peers {
            let phase = index % GAP;
            if at % GAP / BATCH != phase / BATCH {
                continue;
            }
            let rtt = 5 + index % 100;
            let kind = if at < cut {
                sample(at.saturating_sub(rtt), false, Some(at), index, at)
            } else {
                sample(cut, true, Some(cut - 10), index, at)
            };
            engine.handle(now, Input::Tcp(event(at, index, kind)));
        }
        for egress in 0..2_u8 {
            for anchor_index in 0..4_u8 {
                if at % 50 != 0 {
                    continue;
                }
                for source_kind in [ProbeSource::Link, ProbeSource::Flow] {
                    let dead = egress == 0 && at > cut + 40;
                    let outcome = if dead {
                        ProbeOutcome::Lost
                    } else {
                        ProbeOutcome::Reply {
                            rtt: Duration::from_millis(30),
                        }
                    };
                    let name = if egress == 0 { "a" } else { "b" };
                    let result = ProbeResult {
                        sent_at: ms(at.saturating_sub(45)),
                        egress: EgressName::from(name),
                        target: ProbeTarget::Anchor(anchor(anchor_index)),
                        source: source_kind,
                        source_address: source(),
                        outcome,
                    };
                    engine.handle(now, Input::Probe(result));
                }
            }
        }
        if at > cut {
            // Evidence that keeps the rules busy in every batch.
            let lost = HostSignal::Lost {
                stage: LossStage::Queue,
                count: 1,
            };
            engine.handle(now, Input::Host(lost));
        }
        let begun = Instant::now();
        engine.handle_timeout(now);
        let took = begun.elapsed();
        if at > cut {
            ticks.push(took.as_secs_f64() * 1e6);
        }
        while engine.poll_effect().is_some() {}
    }
    ticks
}
