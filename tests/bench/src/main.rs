//! `netwatch-bench`: what netwatch costs the host that it runs on, and whether it survives churn.
//!
//! Everything happens in network namespaces of its own, over veth pairs, bounded in time, and is
//! removed afterwards.

mod bench;
mod bpf;
mod bpftrace;
mod churn;
mod cpu;
mod daemon;
mod hooks;
mod latency;
mod load;
mod loss;
mod pingpong;
mod sleeper;
mod soak;
mod stats;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::sys;
use results::Document;

use crate::bench::Bench;

#[derive(Parser)]
#[command(
    name = "netwatch-bench",
    version,
    about = "What netwatch costs the host that it runs on (needs root)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nanoseconds per hook, added latency, CPU, memory, events until the first loss
    Overhead(Overhead),
    /// Churn for minutes: nothing leaks, nothing is lost unaccounted, nothing stays behind
    Soak(Soak),
    /// A process that the soak starts and kills
    #[command(hide = true)]
    Worker,
    /// The busy peers' end
    #[command(hide = true)]
    Peers { count: usize },
}

#[derive(Args)]
struct Soak {
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Overhead {
    /// A short run, for a look: fewer and shorter blocks
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Common {
    /// Write results and checks as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The daemon's binary, built with the release profile
    #[arg(long, value_name = "PATH", default_value = "target/release/netwatch")]
    netwatch: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nanoseconds per run of each program
    Hooks,
    /// Added latency and throughput
    Latency,
    /// CPU and memory
    Cpu,
    /// Events per second until the first loss
    Loss,
}

fn main() -> ExitCode {
    sys::catch_signals();
    results::exit_code(match Cli::parse().command {
        Command::Overhead(arguments) => overhead(&arguments),
        Command::Soak(arguments) => reported("soak", &arguments.common, false, |bench| {
            soak::run(bench, arguments.minutes)
        }),
        Command::Worker => worker::run().map(|()| true),
        Command::Peers { count } => load::peers_main(count).map(|()| true),
    })
}

/// Runs parts and writes the file, whatever happens. Whether all checks hold.
fn reported(
    name: &str,
    common: &Common,
    quick: bool,
    run: impl FnOnce(&mut Bench) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let bench = common
        .netwatch
        .canonicalize()
        .with_context(|| {
            format!(
                "there is no daemon at {}: build it (`cargo build --release -p netwatch`) or say --netwatch PATH",
                common.netwatch.display()
            )
        })
        .and_then(|binary| Bench::new(name, binary, quick));
    let (document, result) = match bench {
        Ok(mut bench) => {
            let result = run(&mut bench);
            (bench.document, result)
        }
        Err(error) => (Document::new(name), Err(error)),
    };
    document.finish(result, common.json.as_deref())
}

fn overhead(arguments: &Overhead) -> anyhow::Result<bool> {
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    reported("overhead", &arguments.common, arguments.quick, |bench| {
        let mut foreign = hooks::Foreign::new();
        if wanted(Part::Hooks) || wanted(Part::Cpu) {
            bench.part("hooks", |bench| {
                foreign = hooks::measure(bench)?;
                Ok(())
            })?;
        }
        if wanted(Part::Latency) {
            bench.part("latency", latency::measure)?;
        }
        if wanted(Part::Cpu) {
            bench.part("cpu", |bench| cpu::measure(bench, &foreign))?;
        }
        if wanted(Part::Loss) {
            bench.part("loss", loss::measure)?;
        }
        Ok(())
    })
}
