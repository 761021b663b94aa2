//! `netwatch-bench-failover`: the same cuts again and again, in a topology that stays warm, beside
//! what people use today.
//!
//! Everything happens in network namespaces of its own and is removed afterwards.

mod bfd;
mod block;
mod cases;
mod report;
mod slow;
mod stats;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use lab::sys;
use results::{Check, Document};

use crate::block::{Actor, Block, Plan};
use crate::cases::{CASES, Case};
use crate::report::Cuts;

#[derive(Parser)]
#[command(
    name = "netwatch-bench-failover",
    version,
    about = "How fast netwatch and its peers see the same cuts and go another way (needs root)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every case: from the cut to suspicion, verdict, route, traffic and page
    Detect(Bench),
    /// With and without the nudge, and BIRD's BFD with its own failover
    Failover(Bench),
    /// A helper process of the lab's
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Subcommand)]
enum Role {
    /// The validator's end of the workload
    Validator { file: PathBuf },
}

#[derive(Args)]
struct Bench {
    /// Cut so many times in each case
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    /// A look: five cuts in each case
    #[arg(long, conflicts_with = "repeat")]
    quick: bool,
    /// Only these cases, such as upstream-as/gap_50
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    only: Vec<String>,
    /// Leave out the long cuts that a ping monitor, TCP_USER_TIMEOUT and keepalive need
    #[arg(long)]
    no_slow: bool,
    /// Count cuts on a noisy rig as well
    #[arg(long)]
    noisy: bool,
    /// Draws AS numbers, prefixes, addresses and the cuts' phases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write results and checks as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The daemon's binary, built with the release profile
    #[arg(long, value_name = "PATH", default_value = "target/release/netwatch")]
    netwatch: PathBuf,
}

fn main() -> ExitCode {
    sys::catch_signals();
    results::exit_code(match Cli::parse().command {
        Command::Detect(bench) => bench.run("detect", Bench::detect),
        Command::Failover(bench) => bench.run("failover", Bench::failover),
        Command::Role {
            role: Role::Validator { file },
        } => lab::chatter::validator_main(&file).map(|()| true),
    })
}

/// Long cuts, each with many monitors side by side.
const SLOW_CUTS: usize = 5;
/// A cut during which BFD at 300 ms x 3 has had its time, and flows that were backed off once.
const WATCHED: Duration = Duration::from_millis(1_100);
const SHORTEST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_millis(2_500);
/// dpinger needs 15 s and its own phases.
const SLOW: Duration = Duration::from_millis(19_000);

/// Who looks on beside the actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    Nobody,
    Bfd,
    /// And the monitors that need seconds.
    Slow,
}

/// Blocks that were run, and what stopped others.
struct Run {
    document: Document,
    all: Vec<Cuts>,
    netwatch: PathBuf,
}

impl Bench {
    /// Runs the blocks and writes the file, whatever happens. Whether all checks hold.
    fn run(&self, name: &str, blocks: fn(&Self, &mut Run)) -> anyhow::Result<bool> {
        let mut document = Document::new(name);
        let binary = self.netwatch.canonicalize().with_context(|| {
            format!(
                "there is no daemon at {}: build it (`cargo build --release -p netwatch`) or say --netwatch PATH",
                self.netwatch.display()
            )
        });
        match binary.and_then(|binary| self.known().map(|()| binary)) {
            Ok(netwatch) => {
                lab::ns::sweep();
                let mut run = Run {
                    document,
                    all: Vec::new(),
                    netwatch,
                };
                blocks(self, &mut run);
                document = run.document;
                report::add(&mut document, &run.all);
            }
            Err(error) => document
                .checks
                .push(Check::new("started", false, format!("{error:#}"))),
        }
        if let Some(path) = &self.json {
            document.write(path)?;
        }
        tell(&document);
        anyhow::ensure!(
            !sys::interrupted(),
            "interrupted; everything that was made is removed"
        );
        Ok(document.ok())
    }

    fn known(&self) -> anyhow::Result<()> {
        for name in &self.only {
            Case::named(name).with_context(|| {
                let names = CASES.map(|case| case.name);
                format!("there is no case `{name}`; there are {}", names.join(", "))
            })?;
        }
        Ok(())
    }

    fn wanted(&self, case: Case) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| *name == case.name)
    }

    const fn cuts(&self) -> usize {
        if self.quick { 5 } else { self.repeat as usize }
    }

    fn detect(&self, run: &mut Run) {
        for case in CASES.into_iter().filter(|case| self.wanted(*case)) {
            self.block(run, case, Actor::NETWATCH, self.cuts(), Looking::Bfd);
        }
        let slow = CASES[0];
        if self.wanted(slow) && !self.no_slow {
            let cuts = if self.quick { 1 } else { SLOW_CUTS };
            self.block(run, slow, Actor::NETWATCH, cuts, Looking::Slow);
            run.document.results.push(report::blackbox(slow.name));
        }
    }

    fn failover(&self, run: &mut Run) {
        let blocks = [
            ("upstream-as/gap_50", Actor::NETWATCH),
            ("upstream-as/gap_50", Actor::NUDGING),
            ("upstream-as/gap_50", Actor::LATE),
            ("upstream-as/gap_50", Actor::LATE_NUDGING),
            ("gateway/gap_50", Actor::NETWATCH),
            ("gateway/gap_50", Actor::Bird(bfd::BIRD_300)),
            ("gateway/gap_50", Actor::Bird(bfd::BIRD_50)),
        ];
        for (name, actor) in blocks {
            if let Some(case) = Case::named(name).filter(|case| self.wanted(*case)) {
                self.block(run, case, actor, self.cuts(), Looking::Nobody);
            }
        }
        if self.wanted(CASES[0]) {
            let check = match self.budget(&run.netwatch) {
                Ok(check) => check,
                Err(error) => Check::new("budget", false, format!("{error:#}")),
            };
            run.document.checks.push(check);
        }
    }

    /// Cuts a warm topology again and again. What goes wrong is a check of the document's.
    fn block(&self, run: &mut Run, case: Case, actor: Actor, cuts: usize, looking: Looking) {
        let (watch, slow) = (looking != Looking::Nobody, looking == Looking::Slow);
        if sys::interrupted() {
            return;
        }
        let peer = match actor {
            Actor::Netwatch { .. } => None,
            Actor::Bird(name) => Some(name),
        };
        let variant = actor.variant();
        let title = format!(
            "{}{variant}, {}{}",
            case.name,
            peer.unwrap_or("netwatch"),
            if slow { ", long cuts" } else { "" }
        );
        eprintln!("==> {title}: {cuts} cuts");
        let mut found = Cuts {
            case,
            peer,
            variant,
            seen: Vec::new(),
            noisy_too: self.noisy,
        };
        let plan = Plan {
            case,
            actor,
            seed: self.seed,
            netwatch: &run.netwatch,
            watch: watch && case.watched,
            slow,
        };
        let began = sys::now();
        let result = self.repeat(&plan, &mut found, cuts);
        let took = (sys::now() - began) as f64 / 1e9;
        eprintln!(
            "    {} cuts in {took:.0} s, {:.1} s each",
            found.seen.len(),
            took / found.seen.len().max(1) as f64
        );
        let name = format!("{}/ran", title.replace(", ", "/"));
        let all = found.seen.len();
        run.document.checks.push(match result {
            Ok(()) => Check::new(name, true, format!("{all} cuts")),
            Err(error) => Check::new(name, false, format!("after {all} cuts: {error:#}")),
        });
        // Long cuts are more cuts of the same case.
        let same = run
            .all
            .iter_mut()
            .find(|cuts| slow && cuts.case == case && cuts.peer == peer && cuts.variant == variant);
        match same {
            Some(cuts) => cuts.seen.append(&mut found.seen),
            None => run.all.push(found),
        }
    }

    fn repeat(&self, plan: &Plan<'_>, found: &mut Cuts, cuts: usize) -> anyhow::Result<()> {
        let (shortest, longest) = match (plan.slow, plan.actor) {
            (true, _) => (SHORTEST, SLOW),
            (false, Actor::Netwatch { .. }) if plan.watch => (WATCHED, LONGEST),
            _ => (SHORTEST, LONGEST),
        };
        let mut block = Block::start(plan)?;
        // Some more for those on a noisy rig, not for ever.
        while found.counted().count() < cuts && found.seen.len() < cuts + cuts / 4 {
            let seen = block.cut(shortest, longest)?;
            let show = |at: Option<f64>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
            let mut traffic = seen.traffic.clone();
            traffic.sort_by(f64::total_cmp);
            eprintln!(
                "    {:3}: suspect {} verdict {} ({}) route {} page {} traffic {}/{} stuck {}{}",
                found.seen.len() + 1,
                show(seen.suspect),
                show(seen.verdict),
                seen.class.as_deref().unwrap_or("-"),
                show(seen.route),
                show(seen.page),
                show(stats::quantile(&traffic, 0.5)),
                show(traffic.last().copied()),
                seen.stuck,
                seen.noisy
                    .as_ref()
                    .map_or_else(String::new, |why| format!("; noisy: {why}")),
            );
            found.seen.push(seen);
        }
        let names = block.watchers();
        anyhow::ensure!(
            !plan.watch || names.contains(&bfd::FRR),
            "FRR did not look on: install it (Debian package frr)"
        );
        Ok(())
    }

    /// With the default budget the second cut of a kind within 5 minutes is only told.
    fn budget(&self, netwatch: &Path) -> anyhow::Result<Check> {
        eprintln!("==> the action budget: two cuts with the defaults");
        let plan = Plan {
            case: CASES[0],
            actor: Actor::Netwatch {
                nudge: true,
                cautious: true,
                late: false,
            },
            seed: self.seed,
            netwatch,
            watch: false,
            slow: false,
        };
        let mut block = Block::start(&plan)?;
        let first = block.cut(SHORTEST, LONGEST)?;
        let second = block.cut(SHORTEST, Duration::from_millis(1_500))?;
        let why = second.refused.clone().unwrap_or_default();
        Ok(Check::new(
            "budget",
            first.route.is_some()
                && second.route.is_none()
                && second.page.is_some()
                && why.contains("budget"),
            format!(
                "the first cut was rerouted: {}; the second: {}, paged: {}; {why}",
                first.route.is_some(),
                second.route.is_some(),
                second.page.is_some()
            ),
        ))
    }
}

/// The figures for people, then what failed.
fn tell(document: &Document) {
    for measure in &document.results {
        if measure.case.contains("/interval_") {
            continue;
        }
        let show =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
        println!(
            "{:22} {:28} {:38} n {:5} p50 {:>8} p95 {:>8} p99 {:>8} max {:>8} {}",
            measure.metric,
            measure.case,
            measure.peer.as_deref().unwrap_or(""),
            measure.n.unwrap_or(0),
            show(measure.p50),
            show(measure.p95),
            show(measure.p99),
            show(measure.max),
            measure
                .value
                .map_or_else(String::new, |value| format!("value {value}")),
        );
    }
    let failed: Vec<&Check> = document.checks.iter().filter(|check| !check.ok).collect();
    for check in &failed {
        println!("not ok: {}: {}", check.name, check.detail);
    }
    println!("{} checks, {} failed", document.checks.len(), failed.len());
}
