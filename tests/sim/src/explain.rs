//! One world, told: what was true, and what the engine made of it.

use std::fmt::Write;

use crate::judge::{Judged, clock};
use crate::params::Params;
use crate::truth::Truth;
use crate::without::Without;
use crate::world::{Ran, World, micros};

/// Runs a world and tells its story.
#[must_use]
pub fn explain(params: &Params, seed: u64, without: Without) -> (String, Judged) {
    tell(seed, &World::new(params, seed, without, true).run())
}

/// Tells the story of a world that has run with its journal kept.
#[must_use]
pub fn tell(seed: u64, ran: &Ran) -> (String, Judged) {
    let judged = Judged::of(seed, ran);
    let mut out = String::new();
    network(&mut out, seed, ran);
    for truth in Truth::of(ran) {
        let names = |n: &usize| ran.topology.peers[*n].address.to_string();
        let some: Vec<String> = truth.affected.iter().take(6).map(names).collect();
        let _ = writeln!(
            out,
            "truth {}: {} to {}; right: {}; must be found: {}; actionable: {}; affects {} peers: {}; culprits: {:?}, BGP tells: {}",
            truth.kind,
            clock(ran, truth.from),
            clock(ran, truth.until),
            truth
                .right
                .iter()
                .map(|r| match r.egress {
                    Some(e) => format!("{} {}", r.class, ran.topology.egresses[e].name),
                    None => r.class.to_owned(),
                })
                .collect::<Vec<_>>()
                .join(" or "),
            truth.must,
            truth.actionable,
            truth.affected.len(),
            some.join(" "),
            truth
                .culprits
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            truth.bgp_tells,
        );
    }
    out.push('\n');
    let mut lines: Vec<(u64, String)> = Vec::new();
    for fault in &ran.faults {
        for cut in &fault.cuts {
            lines.push((
                cut.from,
                format!(
                    "TRUTH    {:?} dies{}{}{} (until {})",
                    cut.scope,
                    if cut.out { " out" } else { "" },
                    if cut.back { " back" } else { "" },
                    cut.v6
                        .map_or("", |v6| if v6 { " IPv6 only" } else { " IPv4 only" }),
                    if cut.until > ran.span.end {
                        "the end".to_owned()
                    } else {
                        clock(ran, cut.until)
                    }
                ),
            ));
        }
        for (at, signal) in &fault.signals {
            lines.push((*at, format!("TRUTH    the kernel tells {signal:?}")));
        }
    }
    for (n, told) in ran.seen.bgp_told.iter().enumerate() {
        if n == 0 {
            lines.push((*told, "TRUTH    BGP withdraws the first prefix".to_owned()));
        }
    }
    disturbances(&mut lines, ran);
    for entry in &ran.seen.journal {
        lines.push((
            micros(entry.at),
            format!("{} {:?}: {}", entry.incident, entry.actor, entry.text),
        ));
        for evidence in &entry.evidence {
            lines.push((
                micros(entry.at),
                format!(
                    "    - {} {}",
                    clock(ran, micros(evidence.at)),
                    evidence.text
                ),
            ));
        }
    }
    for done in &ran.seen.installed {
        let [v4, v6] = done.moved;
        lines.push((
            done.at,
            format!(
                "TRUTH    plan {} moves {} peers, {} of them dead, {} helped: {}",
                done.plan.0,
                v4.covered + v6.covered,
                v4.dead + v6.dead,
                v4.helped + v6.helped,
                done.routes
                    .iter()
                    .take(5)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ));
    }
    lines.sort_by_key(|(at, _)| *at);
    for (at, line) in lines.iter().filter(|(at, _)| *at <= ran.span.end) {
        let _ = writeln!(out, "{:>12}  {line}", clock(ran, *at));
    }
    let _ = writeln!(
        out,
        "\njudged: {} -> {}, right {}, found {:?}, rerouted {:?}, decision {:?} ms, culprit {:?}",
        judged.fault(),
        judged.verdict,
        judged.right,
        judged.found,
        judged.rerouted,
        judged.decision_ms,
        judged.culprit
    );
    for note in judged.wrong.iter().chain(&judged.notes) {
        let _ = writeln!(out, "  {note}");
    }
    (out, judged)
}

fn network(out: &mut String, seed: u64, ran: &Ran) {
    let t = &ran.topology;
    let _ = writeln!(
        out,
        "world {seed}: {} peers in {} prefixes, {} anchors, {} egresses, families {}{}, traffic {}, BGP {}, answers come in by {}, FIB {}",
        t.peers.len(),
        t.prefixes.len() - t.anchors.len(),
        t.anchors.len(),
        t.egresses.len(),
        if t.families[0] { "4" } else { "" },
        if t.families[1] { "6" } else { "" },
        ran.traffic.pattern.name(),
        ran.feed.name(),
        t.egresses[t.inbound].name,
        if t.fib_specific {
            "by prefix"
        } else {
            "default route"
        },
    );
    for host in t.peers.iter().take(4).chain(&t.anchors) {
        let path: Vec<String> = host.paths[0].iter().map(|a| a.0.to_string()).collect();
        let _ = writeln!(
            out,
            "  {} rtt {:.1} ms path {}",
            host.address,
            (host.out[0] + host.back[t.inbound]) as f64 / 1e3,
            path.join(" ")
        );
    }
}

fn disturbances(lines: &mut Vec<(u64, String)>, ran: &Ran) {
    let b = &ran.benign;
    let warm = ran.span.warm;
    for (egress, loss) in b.wide_loss.iter().enumerate() {
        if *loss != [0.0; 2] {
            lines.push((
                warm,
                format!(
                    "BENIGN   loss on egress {}: {:.2} % out, {:.2} % in",
                    ran.topology.egresses[egress].name,
                    loss[0] * 100.0,
                    loss[1] * 100.0
                ),
            ));
        }
    }
    let lossy = b.peer_loss.iter().filter(|l| **l != [0.0; 2]).count();
    if lossy > 0 {
        lines.push((warm, format!("BENIGN   {lossy} peers lose packets")));
    }
    let jitter = b.peer_jitter.iter().copied().fold(0.0, f64::max);
    if jitter > 200.0 {
        lines.push((
            warm,
            format!("BENIGN   jitter up to {:.1} ms in the mean", jitter / 1e3),
        ));
    }
    let delayed = b.delayed_ack.iter().filter(|d| **d > 0).count();
    if delayed > 0 {
        lines.push((
            warm,
            format!("BENIGN   {delayed} peers delay acknowledgements"),
        ));
    }
    for bloat in &b.bloats {
        lines.push((
            bloat.from,
            format!(
                "BENIGN   the uplink's queue grows to {} ms in {} ms and stays for {} ms",
                bloat.delay / 1000,
                bloat.ramp / 1000,
                bloat.hold / 1000
            ),
        ));
    }
    for lossy in &b.lossy_times {
        lines.push((
            lossy.from,
            format!(
                "BENIGN   loss on the primary for {} ms: {:.2} % out, {:.2} % in",
                (lossy.until - lossy.from) / 1000,
                lossy.loss[0] * 100.0,
                lossy.loss[1] * 100.0
            ),
        ));
    }
    for restart in &b.restarts {
        let peer = ran.topology.peers[restart.peer].address;
        lines.push((
            restart.at,
            format!("BENIGN   {peer} restarts: {:?}", restart.ending),
        ));
    }
    if let Some((_, until)) = b.pause {
        lines.push((until, "BENIGN   a pause of the epoch ends".to_owned()));
    }
    let faults = ran.faults.iter().filter_map(|f| f.standstill);
    for still in b.standstills.iter().copied().chain(faults) {
        lines.push((
            still.from,
            format!(
                "BENIGN   {} stands still for {} ms",
                if still.machine {
                    "the machine"
                } else {
                    "the daemon"
                },
                (still.until - still.from) / 1000
            ),
        ));
    }
    for (at, length) in &b.jumps {
        lines.push((
            *at,
            format!("BENIGN   the clock misses {} ms", length / 1000),
        ));
    }
    for (at, lag) in &b.lags {
        lines.push((*at, format!("BENIGN   a timer is {} ms late", lag / 1000)));
    }
    for noise in &b.noise {
        lines.push((noise.at, format!("BENIGN   BGP noise {noise:?}")));
    }
    for (egress, from, until) in &b.flaps {
        lines.push((
            *from,
            format!(
                "BENIGN   BGP session {egress} flaps for {} ms",
                (until - from) / 1000
            ),
        ));
    }
    for lost in &b.lost {
        lines.push((
            lost.from,
            format!(
                "BENIGN   {:.0} % of observations get lost",
                lost.share * 100.0
            ),
        ));
    }
}
