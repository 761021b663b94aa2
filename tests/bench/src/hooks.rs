//! Nanoseconds per run of each program, less those of an empty program at the same hook in the same
//! run, beside a bpftrace script's.
//!
//! Both ends of the load are sockets of this kernel, but the daemon watches only one: what a program
//! spends on the other end's is measured with a daemon that watches a third namespace, and taken
//! out by their share of the runs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use lab::sys;
use results::Measure;

use crate::bench::{Bench, spread};
use crate::bpf::{Cost, Program, Stats, TRACING};
use crate::bpftrace::{Bpftrace, HOOKS};
use crate::churn::{Churn, KINDS};
use crate::daemon::{Attached, Daemon, Hook};
use crate::load::{Load, RATE, segments_in};
use crate::world::{Config, FAR, HOST, NEAR};

/// The load of these figures.
const PEERS: usize = 100;
/// A program that ran less often under a load has no figure for that load: it runs by accident, for
/// one end as likely as for both.
const FEWEST_RUNS: u64 = 1_000;
/// The same under churn, which is short.
const FEWEST_CHURN_RUNS: u64 = 100;
/// `BPF_TRACE_RAW_TP`.
const RAW_TP: u32 = 23;

/// At most, on the paths of received segments and of sends.
const LIMIT_NS: f64 = 250.0;
/// At most, of what the bpftrace script costs.
const LIMIT_RATIO: f64 = 0.4;

/// Empty programs on the hooks of others.
pub struct Empties {
    /// By BTF id of the hook.
    programs: BTreeMap<u32, Program>,
    _links: Vec<OwnedFd>,
}

impl Empties {
    /// One on each hook of these that takes tracing programs.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn beside<'a>(hooks: impl IntoIterator<Item = (&'a Hook, u32)>) -> anyhow::Result<Self> {
        let mut programs = BTreeMap::new();
        let mut links = Vec::new();
        for (hook, id) in hooks {
            let kind = match hook {
                Hook::Tracepoint(_) => RAW_TP,
                Hook::Tracing(kind) => *kind,
                Hook::Other(_) => continue,
            };
            if id == 0 || programs.contains_key(&id) {
                continue;
            }
            let program = Program::empty(kind, id)
                .with_context(|| format!("cannot load an empty program for {hook:?}"))?;
            links.push(
                program
                    .attach()
                    .with_context(|| format!("cannot attach to {hook:?}"))?,
            );
            programs.insert(id, program);
        }
        Ok(Self {
            programs,
            _links: links,
        })
    }

    /// Beside the daemon's own programs.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn of(attached: &[Attached]) -> anyhow::Result<Self> {
        Self::beside(
            attached
                .iter()
                .filter(|program| program.kind == TRACING)
                .map(|program| (&program.hook, program.attach_btf_id)),
        )
    }

    /// What the one on this hook cost so far.
    pub fn cost(&self, attach_btf_id: u32) -> anyhow::Result<Cost> {
        match self.programs.get(&attach_btf_id) {
            Some(program) => Ok(program.info()?.cost),
            None => Ok(Cost::default()),
        }
    }
}

/// A program's cost in one block, and its empty neighbour's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block {
    /// The program.
    pub program: Cost,
    /// The empty one.
    pub empty: Cost,
}

/// Measures programs, with an empty one beside each, in blocks.
///
/// # Errors
/// A program is gone, or interrupted.
pub fn blocks(
    programs: &[(&Program, u32)],
    empties: &Empties,
    count: usize,
    time: Duration,
) -> anyhow::Result<Vec<Vec<Block>>> {
    let read = || -> anyhow::Result<Vec<Block>> {
        programs
            .iter()
            .map(|(program, id)| {
                Ok(Block {
                    program: program.info()?.cost,
                    empty: empties.cost(*id)?,
                })
            })
            .collect()
    };
    let mut found = vec![Vec::new(); programs.len()];
    let mut before = read()?;
    for _ in 0..count {
        sys::sleep(time)?;
        let now = read()?;
        for ((found, before), now) in found.iter_mut().zip(&before).zip(&now) {
            found.push(Block {
                program: now.program.since(before.program),
                empty: now.empty.since(before.empty),
            });
        }
        before = now;
    }
    Ok(found)
}

/// Sums of blocks.
pub fn sum(blocks: &[Block]) -> Block {
    let mut sum = Block::default();
    for block in blocks {
        sum.program += block.program;
        sum.empty += block.empty;
    }
    sum
}

/// What one program cost, over all phases.
#[derive(Default)]
struct Found {
    hook: Option<Hook>,
    /// The daemon watches one end.
    ours: Vec<Block>,
    /// Runs for the watched end, as the load and the namespace count them.
    watched: u64,
    /// It watches neither.
    foreign: Vec<Block>,
    /// Opening and closing connections instead of messages.
    churn: Vec<Block>,
}

/// What one of the script's programs cost.
#[derive(Default)]
struct Peer {
    blocks: Vec<Block>,
    /// Runs for sockets of the load: it looks at both ends' alike, and passes over what is not TCP.
    wanted: u64,
}

impl Peer {
    /// What a run for a socket of the load costs, where other runs cost as much as an empty program.
    fn mean(&self, block: &Block) -> Option<f64> {
        let empty = block.empty.mean()?;
        let share = share(self.wanted, &sum(&self.blocks));
        Some((block.program.mean()? - (1.0 - share) * empty) / share)
    }

    /// The same less an empty program's.
    fn net(&self, block: &Block) -> Option<f64> {
        Some(self.mean(block)? - block.empty.mean()?)
    }
}

/// Of the runs of a program those that are wanted.
fn share(wanted: u64, all: &Block) -> f64 {
    (wanted as f64 / all.program.runs.max(1) as f64).clamp(0.01, 1.0)
}

/// Of programs that look at sockets, what a run costs that concerns a socket of another namespace:
/// by configuration and program.
pub type Foreign = BTreeMap<(Config, String), f64>;

/// By configuration and program.
type All = BTreeMap<(Config, String), Found>;

/// Whether a program decides by the socket's namespace.
pub fn by_namespace(hook: &Hook) -> bool {
    match hook {
        Hook::Tracepoint(name) => ["tcp", "sock", "inet"].iter().any(|p| name.starts_with(p)),
        Hook::Tracing(_) | Hook::Other(_) => true,
    }
}

/// What runs for a while.
enum Phase {
    /// The daemon, in a namespace.
    Daemon(&'static str, Config),
    Bpftrace,
}

/// Measures and reports; returns what runs for other namespaces' sockets cost.
///
/// # Errors
/// Something cannot be started, or interrupted.
pub fn measure(bench: &mut Bench) -> anyhow::Result<Foreign> {
    let rounds = bench.count(2, 1);
    let mut found = All::new();
    let mut peers: [Peer; 2] = Default::default();
    for round in 0..rounds {
        let mut load = Load::start(&bench.space, PEERS)?;
        let mut phases = [
            Phase::Daemon(HOST, Config::Passive),
            Phase::Daemon(FAR, Config::Passive),
            Phase::Bpftrace,
            Phase::Daemon(HOST, Config::Watched),
            Phase::Daemon(FAR, Config::Watched),
        ];
        if round % 2 == 1 {
            phases.reverse();
        }
        for phase in phases {
            match phase {
                Phase::Daemon(role, config) => {
                    daemon_phase(bench, role, config, &mut found, &mut load)?;
                }
                Phase::Bpftrace => {
                    // Without the peer our own figures stand all the same.
                    if let Err(error) = bpftrace_phase(bench, &mut peers, &mut load) {
                        anyhow::ensure!(!sys::interrupted(), "interrupted");
                        bench.check("hooks/bpftrace", false, format!("{error:#}"));
                    }
                }
            }
        }
        load.check()?;
    }
    churn_phase(bench, &mut found)?;
    Ok(report(bench, &found, &peers))
}

/// What the load did, by namespace: the host's and the peers'.
#[derive(Clone, Copy, Default)]
struct Work {
    segments: [u64; 2],
    sends: [u64; 2],
}

impl Work {
    fn so_far(bench: &Bench, load: &mut Load) -> anyhow::Result<Self> {
        let done = load.done()?;
        Ok(Self {
            segments: [
                segments_in(&bench.space, HOST)?,
                segments_in(&bench.space, NEAR)?,
            ],
            sends: [done.host, done.peers],
        })
    }

    /// Of both ends, what was done on a hook since `before`.
    fn on(self, hook: &Hook, before: Self) -> [u64; 2] {
        let (now, before) = match hook {
            Hook::Tracepoint(name) if name == HOOKS[0] => (self.segments, before.segments),
            _ => (self.sends, before.sends),
        };
        [now[0] - before[0], now[1] - before[1]]
    }
}

fn daemon_phase(
    bench: &mut Bench,
    role: &str,
    config: Config,
    found: &mut All,
    load: &mut Load,
) -> anyhow::Result<()> {
    let daemon = bench.daemon(role, config)?;
    let attached = daemon.objects()?.attached()?;
    let empties = Empties::of(&attached)?;
    let _stats = Stats::enable().context("cannot enable the statistics of programs")?;
    sys::sleep(bench.time(3.0, 1.0))?;
    let before = Work::so_far(bench, load)?;
    let programs: Vec<_> = attached
        .iter()
        .map(|one| (&one.program, one.attach_btf_id))
        .collect();
    let measured = blocks(&programs, &empties, bench.count(5, 3), bench.time(2.0, 1.0))?;
    let now = Work::so_far(bench, load)?;
    for (one, blocks) in attached.iter().zip(measured) {
        let found = found.entry((config, one.name.clone())).or_default();
        found.hook = Some(one.hook.clone());
        if role == HOST {
            found.watched += now.on(&one.hook, before)[0];
            found.ours.extend(blocks);
        } else {
            found.foreign.extend(blocks);
        }
    }
    drop((empties, attached));
    daemon.stop()
}

/// The BTF ids of the script's hooks are asked of a daemon that is started for that.
fn bpftrace_phase(bench: &mut Bench, peers: &mut [Peer], load: &mut Load) -> anyhow::Result<()> {
    let daemon = bench.daemon(FAR, Config::Passive)?;
    let attached = daemon.objects()?.attached()?;
    let ids = HOOKS.map(|name| {
        attached
            .iter()
            .find(|one| one.hook == Hook::Tracepoint(name.to_owned()))
            .map(|one| (one.hook.clone(), one.attach_btf_id))
    });
    drop(attached);
    daemon.stop()?;
    let empties = Empties::beside(ids.iter().flatten().map(|(hook, id)| (hook, *id)))?;
    let bpftrace = Bpftrace::start(bench.space.directory())?;
    let _stats = Stats::enable().context("cannot enable the statistics of programs")?;
    sys::sleep(bench.time(2.0, 1.0))?;
    let programs: Vec<_> = bpftrace
        .programs
        .iter()
        .zip(&ids)
        .map(|(program, id)| (program, id.as_ref().map_or(0, |(_, id)| *id)))
        .collect();
    let before = Work::so_far(bench, load)?;
    let measured = blocks(&programs, &empties, bench.count(5, 3), bench.time(2.0, 1.0))?;
    let now = Work::so_far(bench, load)?;
    for ((peer, name), blocks) in peers.iter_mut().zip(HOOKS).zip(measured) {
        let hook = Hook::Tracepoint(name.to_owned());
        peer.wanted += now.on(&hook, before).iter().sum::<u64>();
        peer.blocks.extend(blocks);
    }
    Ok(())
}

/// Programs that do not run while messages go back and forth.
fn churn_phase(bench: &mut Bench, found: &mut All) -> anyhow::Result<()> {
    let daemon = bench.daemon(HOST, Config::Passive)?;
    let attached = daemon.objects()?.attached()?;
    let empties = Empties::of(&attached)?;
    let churn = Churn::start(&bench.space, &KINDS, 400)?;
    let _stats = Stats::enable().context("cannot enable the statistics of programs")?;
    sys::sleep(bench.time(1.0, 0.5))?;
    let programs: Vec<_> = attached
        .iter()
        .map(|one| (&one.program, one.attach_btf_id))
        .collect();
    let measured = blocks(&programs, &empties, bench.count(5, 2), bench.time(1.0, 1.0))?;
    for (one, blocks) in attached.iter().zip(measured) {
        let found = found
            .entry((Config::Passive, one.name.clone()))
            .or_default();
        found.hook = Some(one.hook.clone());
        found.churn = blocks;
    }
    drop(churn);
    drop((empties, attached));
    daemon.stop()
}

/// A block's mean less the empty program's; without an empty one the mean.
fn net(block: &Block) -> Option<f64> {
    Some(block.program.mean()? - block.empty.mean().unwrap_or(0.0))
}

fn report(bench: &mut Bench, found: &All, peers: &[Peer]) -> Foreign {
    let mut foreign_costs = Foreign::new();
    for ((config, name), found) in found {
        let Some(hook) = &found.hook else { continue };
        let load = match config {
            Config::Watched => format!("{PEERS}x{RATE}/watched"),
            _ => format!("{PEERS}x{RATE}"),
        };
        let metric = format!("hook_ns.{name}");
        let foreign = sum(&found.foreign);
        let many = foreign.program.runs >= FEWEST_RUNS && by_namespace(hook);
        if let Some(mean) = foreign.program.mean().filter(|_| many) {
            foreign_costs.insert((*config, name.clone()), mean);
        }
        let all = sum(&found.ours);
        if all.program.runs < FEWEST_RUNS {
            churned(bench, &metric, &found.churn);
            continue;
        }
        // The watched end's runs alone.
        let share = share(found.watched, &all);
        let foreign_mean = foreign_costs.get(&(*config, name.clone())).copied();
        let watched = |mean: f64| match foreign_mean {
            Some(foreign) => (mean - (1.0 - share) * foreign) / share,
            None => mean,
        };
        let nets: Vec<f64> = found
            .ours
            .iter()
            .filter_map(|b| Some(watched(b.program.mean()?) - b.empty.mean().unwrap_or(0.0)))
            .collect();
        let (Some(mean), empty) = (all.program.mean(), all.empty.mean()) else {
            continue;
        };
        let value = watched(mean) - empty.unwrap_or(0.0);
        let mut measure = spread(&metric, &format!("{load}/net"), "ns", value, &nets);
        // What is collected of a watched process is more than the script collects.
        let peer = HOOKS
            .iter()
            .position(|peer| *hook == Hook::Tracepoint((*peer).to_owned()))
            .filter(|_| *config == Config::Passive)
            .and_then(|at| peers.get(at))
            .filter(|peer| !peer.blocks.is_empty());
        let peer_net = peer.and_then(|peer| peer.net(&sum(&peer.blocks)));
        measure.ratio = peer_net.map(|peer| (value / peer * 1_000.0).round() / 1_000.0);
        bench.add(measure);
        bench.single(&metric, &format!("{load}/raw"), "ns", watched(mean));
        if let Some(empty) = empty {
            bench.single(&metric, &format!("{load}/empty"), "ns", empty);
        }
        if let Some(foreign) = foreign_mean {
            bench.single(&metric, &format!("{load}/unwatched_raw"), "ns", foreign);
        }
        let on_path = HOOKS
            .iter()
            .any(|path| *hook == Hook::Tracepoint((*path).to_owned()));
        if on_path {
            bench.at_most(
                format!("{metric}/{load}/net"),
                value,
                LIMIT_NS,
                &format!("ns per run at {load}, less an empty program"),
            );
        }
        if let (Some(script), Some(peer_net)) = (peer, peer_net) {
            let nets: Vec<f64> = script.blocks.iter().filter_map(|b| script.net(b)).collect();
            let peer = Some("bpftrace".to_owned());
            bench.add(Measure {
                peer: peer.clone(),
                ..spread(&metric, &format!("{load}/net"), "ns", peer_net, &nets)
            });
            let raw = script.mean(&sum(&script.blocks)).unwrap_or(0.0);
            bench.add(Measure {
                peer,
                ..Measure::single(&metric, &format!("{load}/raw"), "ns", raw)
            });
            bench.at_most(
                format!("{metric}/{load}/bpftrace"),
                value / peer_net,
                LIMIT_RATIO,
                &format!("of bpftrace's {peer_net:.0} ns at {load}, both less an empty program"),
            );
        }
    }
    foreign_costs
}

/// A program that messages do not run. Both ends' sockets are in it.
fn churned(bench: &mut Bench, metric: &str, blocks: &[Block]) {
    let all = sum(blocks);
    if all.program.runs < FEWEST_CHURN_RUNS {
        return;
    }
    if let (Some(value), Some(raw)) = (net(&all), all.program.mean()) {
        let nets: Vec<f64> = blocks.iter().filter_map(net).collect();
        bench.add(spread(metric, "churn_400/s/net", "ns", value, &nets));
        bench.single(metric, "churn_400/s/raw", "ns", raw);
    }
}

/// Time that programs took in a window, in percent of one core: all of it, and what remains when
/// runs for sockets of the load's other end and the statistics' own time are taken out.
pub struct KernelTime {
    /// All that `bpf_stats` counted.
    pub raw: f64,
    /// Of the watched end, less an empty program for each run.
    pub net: f64,
    /// The same by program.
    pub by_program: Vec<(String, f64)>,
}

/// Measures all of the daemon's programs for so long under whatever load there is.
///
/// # Errors
/// A program is gone, or interrupted.
pub fn kernel_time(
    daemon: &Daemon,
    config: Config,
    foreign: &Foreign,
    time: Duration,
) -> anyhow::Result<KernelTime> {
    let attached = daemon.objects()?.attached()?;
    let empties = Empties::of(&attached)?;
    let _stats = Stats::enable().context("cannot enable the statistics of programs")?;
    sys::sleep(Duration::from_secs(1))?;
    let programs: Vec<_> = attached
        .iter()
        .map(|one| (&one.program, one.attach_btf_id))
        .collect();
    let start = sys::now();
    let measured = blocks(&programs, &empties, 1, time)?;
    let elapsed = (sys::now() - start) as f64;
    // Active probes are no matter of the programs'.
    let of_foreign = match config {
        Config::Probing => Config::Passive,
        other => other,
    };
    let mut raw = 0.0;
    let mut by_program = Vec::new();
    for (one, blocks) in attached.iter().zip(&measured) {
        let Block { program, empty } = sum(blocks);
        raw += program.nanos as f64;
        let (nanos, runs) = (program.nanos as f64, program.runs as f64);
        // Both ends do the same.
        let (others, other_nanos) = match foreign.get(&(of_foreign, one.name.clone())) {
            Some(mean) => (runs / 2.0, runs / 2.0 * mean),
            None => (0.0, 0.0),
        };
        let net = nanos - other_nanos - (runs - others) * empty.mean().unwrap_or(0.0);
        by_program.push((one.name.clone(), net * 100.0 / elapsed));
    }
    Ok(KernelTime {
        raw: raw * 100.0 / elapsed,
        net: by_program.iter().map(|(_, percent)| percent).sum(),
        by_program,
    })
}
