//! Latency and throughput with the daemon and with the bpftrace script, against neither: blocks
//! alternate off, on, on, off, and differences are taken between neighbours.

use lab::sys;
use results::Measure;

use crate::bench::Bench;
use crate::bpftrace::Bpftrace;
use crate::daemon::Daemon;
use crate::pingpong::{Server, Trips, bulk, cores, trips};
use crate::stats::{self, Median};
use crate::world::{Config, HOST};

/// Sizes of request and response.
const SIZES: [usize; 2] = [1, 64];

/// One block.
struct Block {
    trips: Vec<Trips>,
    throughput: f64,
}

/// Who is on in the blocks in the middle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Netwatch,
    Bpftrace,
}

enum Running {
    Netwatch(Daemon),
    Bpftrace(Bpftrace),
}

/// Measures and reports.
///
/// # Errors
/// A connection breaks, something does not start, or interrupted.
pub fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let cores = cores();
    // Both ends share a core: no inter-processor interrupts, no idle states, and a bulk stream is as
    // fast as its work is little.
    let core = cores.first().copied().unwrap_or(0);
    let _server = Server::start(&bench.space, core)?;
    let mut best = None;
    for (who, rounds) in [
        (Who::Bpftrace, bench.count(7, 3)),
        (Who::Netwatch, bench.count(14, 4)),
    ] {
        let pairs = match pairs(bench, who, rounds, core) {
            Ok(pairs) => pairs,
            // Without the peer our own figures stand all the same.
            Err(error) if who == Who::Bpftrace && !sys::interrupted() => {
                bench.check("latency/bpftrace", false, format!("{error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let found = report(bench, who, &pairs, best.as_deref());
        best = best.or(Some(found));
    }
    Ok(())
}

/// Blocks off, on, on, off, so many times: pairs of off and on.
fn pairs(
    bench: &mut Bench,
    who: Who,
    rounds: usize,
    core: usize,
) -> anyhow::Result<Vec<(Block, Block)>> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let off_before = block(bench, core)?;
        let running = start(bench, who)?;
        sys::sleep(bench.time(2.0, 1.0))?;
        let on_first = block(bench, core)?;
        let on_second = block(bench, core)?;
        match running {
            Running::Netwatch(daemon) => daemon.stop()?,
            Running::Bpftrace(bpftrace) => drop(bpftrace),
        }
        let off_after = block(bench, core)?;
        pairs.push((off_before, on_first));
        pairs.push((off_after, on_second));
    }
    Ok(pairs)
}

fn start(bench: &mut Bench, who: Who) -> anyhow::Result<Running> {
    Ok(match who {
        Who::Netwatch => Running::Netwatch(bench.daemon(HOST, Config::Passive)?),
        Who::Bpftrace => Running::Bpftrace(Bpftrace::start(bench.space.directory())?),
    })
}

fn block(bench: &Bench, core: usize) -> anyhow::Result<Block> {
    sys::sleep(bench.time(0.3, 0.1))?;
    let time = bench.time(1.0, 0.4);
    let trips = SIZES
        .iter()
        .map(|bytes| trips(&bench.space, core, *bytes, time))
        .collect::<anyhow::Result<_>>()?;
    Ok(Block {
        trips,
        throughput: bulk(&bench.space, core, time)?,
    })
}

/// Reports, beside the peer's medians by size where they are there; returns the medians.
fn report(bench: &mut Bench, who: Who, pairs: &[(Block, Block)], best: Option<&[f64]>) -> Vec<f64> {
    let mut medians = Vec::new();
    let peer = (who == Who::Bpftrace).then(|| "bpftrace".to_owned());
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    for (index, bytes) in SIZES.iter().enumerate() {
        let of = |block: &Block, figure: fn(&Trips) -> f64| block.trips.get(index).map(figure);
        let differences = |figure: fn(&Trips) -> f64| -> Vec<f64> {
            pairs
                .iter()
                .filter_map(|(off, on)| Some(of(on, figure)? - of(off, figure)?))
                .collect()
        };
        let (Some(p50), Some(p99)) = (
            Median::of(&differences(|trips| trips.p50)),
            Median::of(&differences(|trips| trips.p99)),
        ) else {
            return medians;
        };
        medians.push(p50.value);
        let case = format!("pingpong_{bytes}B");
        let mut measure = Measure::single("added_latency_us", &case, "us", p50.value);
        measure.n = Some(pairs.len());
        measure.p50 = Some(round(p50.value));
        measure.p99 = Some(round(p99.value));
        measure.peer.clone_from(&peer);
        measure.ratio = best
            .and_then(|best| best.get(index))
            .map(|best| round(p50.value / best));
        bench.add(measure);
        let off: Vec<f64> = pairs
            .iter()
            .filter_map(|(off, _)| of(off, |trips| trips.p50))
            .collect();
        for (end, value) in p50
            .interval
            .into_iter()
            .flat_map(|(low, high)| [("interval_low", low), ("interval_high", high)])
        {
            let mut measure =
                Measure::single("added_latency_us", &format!("{case}/{end}"), "us", value);
            measure.peer.clone_from(&peer);
            bench.add(measure);
        }
        if who == Who::Netwatch {
            if let Some(off) = stats::median(&off) {
                bench.single("round_trip_us", &format!("{case}/off"), "us", off);
            }
            let total: usize = pairs.iter().map(|(off, _)| off.trips[index].n).sum();
            bench.check(
                format!("added_latency_us/{case}"),
                p50.value <= 2.0 && p50.interval.is_some_and(|(_, high)| high < 5.0),
                format!(
                    "p50 {p50} us, p99 {p99} us, of {total} round trips without; at most 2 wanted, interval below 5"
                ),
            );
        }
    }
    let ratios: Vec<f64> = pairs
        .iter()
        .map(|(off, on)| on.throughput / off.throughput)
        .collect();
    if let Some(ratio) = Median::of(&ratios) {
        let mut measure = Measure::single("throughput_ratio", "bulk", "", ratio.value);
        measure.n = Some(ratio.n);
        measure.peer.clone_from(&peer);
        bench.add(measure);
        let gigabits: Vec<f64> = pairs
            .iter()
            .map(|(off, _)| off.throughput * 8.0 / 1e9)
            .collect();
        if who == Who::Netwatch {
            bench.check(
                "throughput_ratio/bulk",
                ratio.value >= 0.98,
                format!(
                    "{ratio} of {:.2} Gbit/s, at least 0.98 wanted",
                    stats::median(&gigabits).unwrap_or(0.0)
                ),
            );
        }
    }
    medians
}
