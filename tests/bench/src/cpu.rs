//! CPU time and memory of the daemon, time in its programs, and its pipeline's delay, at 1, 100 and
//! 1,000 busy peers.

use lab::sys;
use results::Measure;

use crate::bench::{Bench, spread};
use crate::daemon::{Counters, Daemon, possible_cpus};
use crate::hooks::{Foreign, kernel_time};
use crate::load::{Load, RATE};
use crate::sleeper::Sleeper;
use crate::stats;
use crate::world::{Config, HOST};

/// Busy peers.
const PEERS: [usize; 3] = [1, 100, 1_000];
/// The goals are for this many.
const GOAL_PEERS: usize = 100;
/// At most, of one core.
const CPU_LIMIT: f64 = 0.3;
const BPF_LIMIT: u64 = 12_000_000;
const RSS_LIMIT: u64 = 40_000_000;
const DELAY_LIMIT_US: f64 = 1_000.0;
/// Memory is computed for a machine of this size too.
const LARGE_MACHINE: u64 = 64;

/// Measures and reports.
///
/// # Errors
/// The daemon does not start or ends by itself, or interrupted.
pub fn measure(bench: &mut Bench, foreign: &Foreign) -> anyhow::Result<()> {
    for config in [Config::Passive, Config::Probing, Config::Watched] {
        for peers in PEERS {
            if (bench.quick || config == Config::Watched) && peers != GOAL_PEERS {
                continue;
            }
            one(bench, config, peers, foreign)?;
        }
    }
    Ok(())
}

fn one(bench: &mut Bench, config: Config, peers: usize, foreign: &Foreign) -> anyhow::Result<()> {
    let case = format!("{}/{peers}x{RATE}", config.name());
    let mut daemon = bench.daemon(HOST, config)?;
    let mut load = Load::start(&bench.space, peers)?;
    sys::sleep(bench.time(8.0, 3.0))?;
    let before = daemon.counters()?;
    let sent = load.done()?;

    let blocks = bench.count(10, 3);
    let sleeper = Sleeper::start()?;
    let (mut percents, mut bare, mut each) = (Vec::new(), Vec::new(), Vec::new());
    let mut rates = Vec::new();
    let window = (sys::now(), daemon.cpu_micros()?);
    let mut last = window;
    let mut switches = daemon.switches()?;
    let mut slept = sleeper.used();
    for _ in 0..blocks {
        sys::sleep(bench.time(2.0, 2.0))?;
        let now = (sys::now(), daemon.cpu_micros()?);
        let switched = daemon.switches()?;
        let used = sleeper.used();
        let wakeups = switched.saturating_sub(switches).max(1) as f64;
        percents.push(percent(last, now));
        bare.push(used.micros_each_since(slept));
        each.push((now.1 - last.1) as f64 / wakeups);
        rates.push(wakeups * 1e9 / (now.0 - last.0) as f64);
        (last, switches, slept) = (now, switched, used);
    }
    drop(sleeper);
    load.check()?;
    let rate = {
        let now = load.done()?;
        let seconds = (last.0 - window.0) as f64 / 1e9;
        (now.host - sent.host) as f64 / seconds
    };
    // Asked only now: the answer costs CPU time as well.
    let after = daemon.counters()?;
    let value = percent(window, last);
    bench.add(spread("daemon_cpu_percent", &case, "%", value, &percents));
    for (metric, unit, blocks) in [
        ("daemon_wakeups_per_second", "1/s", &rates),
        ("daemon_us_per_wakeup", "us", &each),
        ("bare_us_per_wakeup", "us", &bare),
    ] {
        let middle = stats::median(blocks).unwrap_or_default();
        bench.add(spread(metric, &case, unit, middle, blocks));
    }
    let by_block = percents.iter().zip(&bare);
    let by_block: Vec<String> = by_block.map(|(p, us)| format!("{p:.2}/{us:.0}")).collect();
    println!(
        "{case}: % of a core / us of a bare wake-up, by block: {}",
        by_block.join(" ")
    );
    let wanted = (peers as u64 * RATE) as f64;
    bench.check(
        format!("load/{case}"),
        rate > 0.95 * wanted,
        format!("{rate:.0} of {wanted:.0} messages per second each way"),
    );
    if config == Config::Probing {
        probes_answered(bench, &case, &before, &after);
    }
    let losses = after.losses_since(&before);
    bench.check(
        format!("no_loss/{case}"),
        losses.is_empty(),
        format!("lost in the window: {losses:?}"),
    );

    let kernel = kernel_time(&daemon, config, foreign, bench.time(10.0, 3.0))?;
    bench.single(
        "kernel_cpu_percent",
        &format!("{case}/net"),
        "%",
        kernel.net,
    );
    bench.single(
        "kernel_cpu_percent",
        &format!("{case}/raw"),
        "%",
        kernel.raw,
    );
    for (name, percent) in kernel.by_program.iter().filter(|(_, p)| *p >= 0.001) {
        bench.single(
            "kernel_cpu_percent",
            &format!("{case}/net/{name}"),
            "%",
            *percent,
        );
    }
    bench.single(
        "daemon_rss_bytes",
        &case,
        "bytes",
        daemon.memory("VmRSS")? as f64,
    );
    if peers == GOAL_PEERS {
        bench.at_most(
            format!("daemon_cpu_percent/{case}"),
            value,
            CPU_LIMIT,
            "% of one core",
        );
        bench.check(
            format!("kernel_cpu_percent/{case}"),
            kernel.net <= CPU_LIMIT,
            format!(
                "{:.3} % of one core ({:.3} % with the load's other end and the statistics' own time), at most {CPU_LIMIT} wanted",
                kernel.net, kernel.raw
            ),
        );
        memory(bench, &daemon, &case)?;
        delay(bench, &case, &daemon.counters()?);
    }
    drop(load);
    daemon.check()?;
    daemon.stop()
}

fn percent(from: (u64, u64), to: (u64, u64)) -> f64 {
    (to.1 - from.1) as f64 * 1e3 * 100.0 / (to.0 - from.0).max(1) as f64
}

fn probes_answered(bench: &mut Bench, case: &str, before: &Counters, after: &Counters) {
    let delta = |name: &str| after.get(name).unwrap_or(0.0) - before.get(name).unwrap_or(0.0);
    let (sent, replies) = (delta("probes_sent_total"), delta("probes_replies_total"));
    let (late, lost) = (
        delta("probes_late_replies_total"),
        delta("probes_lost_total"),
    );
    bench.check(
        format!("probes_answered/{case}"),
        sent > 0.0 && replies + late >= 0.95 * sent,
        format!("{sent} probes sent, {replies} answered, {late} late, {lost} counted as lost"),
    );
}

fn memory(bench: &mut Bench, daemon: &Daemon, case: &str) -> anyhow::Result<()> {
    let rss = daemon.memory("VmRSS")?;
    bench.check(
        format!("daemon_rss_bytes/{case}"),
        rss <= RSS_LIMIT,
        format!(
            "{rss} bytes ({} of them its own), at most {RSS_LIMIT} wanted",
            daemon.memory("RssAnon")?
        ),
    );
    let cpus = possible_cpus()?;
    let objects = daemon.objects()?;
    for then in [cpus, LARGE_MACHINE] {
        let bytes = objects.memory_for(cpus, then);
        bench.single(
            "bpf_memory_bytes",
            &format!("{case}/{then}_cpus"),
            "bytes",
            bytes as f64,
        );
        bench.check(
            format!("bpf_memory_bytes/{case}/{then}_cpus"),
            bytes <= BPF_LIMIT,
            format!(
                "{bytes} bytes in {} programs and {} maps, at most {BPF_LIMIT} wanted",
                objects.programs.len(),
                objects.maps.len()
            ),
        );
    }
    Ok(())
}

fn delay(bench: &mut Bench, case: &str, counters: &Counters) {
    let at = |quantile: &str| {
        counters.get(&format!(
            "collector_delay_microseconds{{quantile=\"{quantile}\"}}"
        ))
    };
    let name = format!("collector_delay_us/{case}");
    let Some(p99) = at("0.99") else {
        bench.check(name, false, "the daemon has no such metric yet");
        return;
    };
    let mut measure = Measure::single("collector_delay_us", case, "us", p99);
    measure.p50 = at("0.5");
    measure.p99 = Some(p99);
    measure.max = at("1");
    bench.add(measure);
    bench.at_most(name, p99, DELAY_LIMIT_US, "us at p99 on the urgent ring");
}
