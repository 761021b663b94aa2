//! The null benchmark: what the rig adds and costs when nothing happens. A rig that is itself late
//! by as much as what it shall measure says so instead of reporting.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::duration::Span;
use crate::rig::{OUTSIDE, Rig, VALIDATOR};
use crate::run::Noise;
use crate::scenario::{Scenario, Topology};
use crate::sys;
use crate::workload::Workload;
use crate::world::{Role, World};
use results::{Check, Document, Measure};

/// Packets per second through the forwarder: half of them out, half of them back.
const RATE: u64 = 2_000;
/// The round-trip time that is set.
const RTT: Span = Span::ms(40);
const PORT: u16 = 7;

/// More than this beyond the delay that was set, at p99, end to end: packets waited for a core.
const ADDED_DELAY_LIMIT_MS: f64 = 10.0;

fn slow(part: &Part) -> Option<String> {
    let added = part
        .measures
        .iter()
        .find(|m| m.metric == "rig_added_delay_ms")?;
    let p99 = added.p99.filter(|p99| *p99 > ADDED_DELAY_LIMIT_MS)?;
    Some(format!(
        "round trips took {p99:.1} ms longer than set at p99 (limit {ADDED_DELAY_LIMIT_MS} ms)"
    ))
}

/// Runs both parts for so long each: a steady stream of datagrams, then the workload.
///
/// # Errors
/// The rig cannot be built, or a signal came.
pub fn run(duration: Duration, document: &mut Document) -> anyhow::Result<()> {
    let scenario = scenario();
    let mut rig = Rig::build(&scenario, World::draw(&scenario, 1), false)?;
    let datagrams = stream(&rig, duration)?;
    let workload = chat(&mut rig, &scenario, duration)?;
    for part in [datagrams, workload] {
        let complaint = part.noise.complaint().or_else(|| slow(&part));
        document.checks.push(Check::new(
            format!("{}_quiet", part.case),
            complaint.is_none(),
            complaint.as_ref().map_or_else(
                || {
                    format!(
                        "{:.0} packets/s, late by {:.2} ms at p99, {:.1} % CPU stolen",
                        part.rate, part.noise.late_p99_ms, part.noise.steal_percent
                    )
                },
                |complaint| format!("too noisy to measure, timings are not reported: {complaint}"),
            ),
        ));
        document.results.push(Measure::single(
            "rig_packets_per_second",
            part.case,
            "1/s",
            part.rate,
        ));
        if complaint.is_none() {
            document.results.extend(part.measures);
        }
    }
    Ok(())
}

fn scenario() -> Scenario {
    let mut scenario = Scenario {
        name: "null".to_owned(),
        description: String::new(),
        duration: Span::ms(1),
        topology: Topology::default(),
        daemon: crate::scenario::Daemon::default(),
        fault: Vec::new(),
        expect: crate::scenario::Expect::default(),
    };
    scenario.topology.rtt = [RTT, RTT];
    scenario
}

struct Part {
    case: &'static str,
    rate: f64,
    noise: Noise,
    measures: Vec<Measure>,
}

/// What the forwarder did during `f`.
fn observe<T>(
    rig: &Rig,
    case: &'static str,
    f: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Part)> {
    let (cpu, packets, lost) = {
        let mut state = rig.forwarder.state();
        state.lateness.clear();
        (state.cpu, state.forwarded, state.overflowed)
    };
    let (ticks, start) = (sys::cpu_ticks(), sys::now());
    let value = f()?;
    let (now, took) = (sys::cpu_ticks(), (sys::now() - start) as f64);
    let state = rig.forwarder.state();
    let late: Vec<f64> = state
        .lateness
        .iter()
        .map(|(_, late)| f64::from(*late) / 1e3)
        .collect();
    let late = Measure::of("rig_lateness_ms", case, "ms", late).context("no packet passed")?;
    let cpu_percent = (state.cpu - cpu) as f64 * 100.0 / took;
    let part = Part {
        case,
        rate: (state.forwarded - packets) as f64 * 1e9 / took,
        noise: Noise {
            late_p99_ms: late.p99.unwrap_or(0.0),
            steal_percent: (now.1 - ticks.1) as f64 * 100.0 / (now.0 - ticks.0).max(1) as f64,
            overflowed: state.overflowed - lost,
            cpu_percent,
        },
        measures: vec![
            late,
            Measure::single("rig_forwarder_cpu_percent", case, "%", cpu_percent),
        ],
    };
    Ok((value, part))
}

/// Datagrams to an echo server far away: what a round trip takes beyond what was set.
fn stream(rig: &Rig, duration: Duration) -> anyhow::Result<Part> {
    let peer = rig
        .world
        .peers()
        .find(|(_, host)| host.role == Role::Peer && host.address.is_ipv4())
        .map(|(_, host)| SocketAddr::new(host.address, PORT))
        .context("no IPv4 peer was drawn")?;
    let own = SocketAddr::new(IpAddr::V4(rig.world.own.0), 0);
    let server = rig.space.within(OUTSIDE, || Ok(UdpSocket::bind(peer)?))?;
    let client = rig.space.within(VALIDATOR, || {
        let socket = UdpSocket::bind(own)?;
        socket.connect(peer)?;
        Ok(socket)
    })?;
    let timeout = Some(Duration::from_millis(100));
    server.set_read_timeout(timeout)?;
    client.set_read_timeout(timeout)?;
    let stop = AtomicBool::new(false);
    let (added, mut part) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0u8; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = server.recv_from(&mut buffer) {
                    let _ = server.send_to(&buffer[..length], from);
                }
            }
        });
        let reader = scope.spawn(|| {
            let (mut samples, mut buffer) = (Vec::new(), [0u8; 64]);
            while !stop.load(Ordering::Relaxed) {
                let Ok(length) = client.recv(&mut buffer) else {
                    continue;
                };
                let now = sys::now();
                if let Ok(sent) = <[u8; 8]>::try_from(&buffer[..length.min(8)]) {
                    let trip = now.saturating_sub(u64::from_ne_bytes(sent));
                    samples.push((trip as f64 - RTT.nanos() as f64) / 1e6);
                }
            }
            samples
        });
        let result = observe(rig, "udp_stream", || {
            sys::precise_timers();
            let gap = 2_000_000_000 / RATE;
            let mut next = sys::now();
            let end = next + duration.as_nanos() as u64;
            while next < end && !sys::interrupted() {
                let wait = next.saturating_sub(sys::now());
                std::thread::sleep(Duration::from_nanos(wait));
                client.send(&sys::now().to_ne_bytes())?;
                next += gap;
            }
            std::thread::sleep(RTT.0 * 2);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let samples = reader.join().unwrap_or_default();
        result.map(|((), part)| (samples, part))
    })?;
    anyhow::ensure!(!sys::interrupted(), "interrupted");
    let mean = added.iter().sum::<f64>() / added.len().max(1) as f64;
    let variance =
        added.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / added.len().max(1) as f64;
    part.measures.push(Measure::single(
        "rig_jitter_ms",
        part.case,
        "ms",
        variance.sqrt(),
    ));
    part.measures
        .extend(Measure::of("rig_added_delay_ms", part.case, "ms", added));
    Ok(part)
}

/// The ordinary workload: what watching it costs, and the longest time that a connection shows no
/// progress although nothing is wrong.
fn chat(rig: &mut Rig, scenario: &Scenario, duration: Duration) -> anyhow::Result<Part> {
    let world = rig.world.clone();
    let mut workload = Workload::start(&rig.space, &world, &scenario.topology, VALIDATOR, OUTSIDE)?;
    sys::sleep(Duration::from_secs(1))?;
    let before = workload.dump(0, 0)?;
    let start = sys::now();
    let ((), mut part) = observe(rig, "workload", || sys::sleep(duration))?;
    let end = sys::now();
    let after = workload.dump(start, end)?;
    let percent = |from: u64, to: u64| (to - from) as f64 * 100.0 / (end - start) as f64;
    part.measures.push(Measure::single(
        "rig_measuring_cpu_percent",
        part.case,
        "%",
        percent(before.watching, after.watching),
    ));
    part.measures.push(Measure::single(
        "rig_validator_cpu_percent",
        part.case,
        "%",
        percent(before.cpu, after.cpu),
    ));
    let gaps = after
        .flows
        .iter()
        .map(|flow| flow.longest_gap as f64 / 1e6)
        .collect();
    part.measures
        .extend(Measure::of("rig_longest_gap_ms", part.case, "ms", gaps));
    Ok(part)
}
