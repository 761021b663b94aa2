//! The benchmarks' front door: builds the daemon and `netwatch-bench`, then hands over.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::setup;
use crate::shell::{cargo, root, run, step};

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// What the daemon costs its host: ns per hook, added latency, CPU, memory, events until the first loss
    Overhead(Overhead),
    /// The same cuts again and again: suspicion, verdict, route, traffic, page, beside BFD, a ping monitor, TCP's timeouts
    Detect(Cuts),
    /// The same with and without the nudge (RFC 6069), and BIRD's BFD with its own failover
    Failover(Cuts),
    /// How many signals per second the engine takes on one core, and how long its rules run
    Engine(Engine),
    /// The BGP feed: a full table over a session, memory, churn, queries; BIRD, GoBGP and FRR beside it
    Bgp(Bgp),
}

#[derive(Args)]
struct Bgp {
    /// A tenth of the synthetic table, one run each
    #[arg(long)]
    quick: bool,
    /// Only these parts: decode, lookup, apply, churn, queries, feed
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  cargo xtask bench detect --quick                          five cuts in each case
  cargo xtask bench detect --only gateway/gap_50 --json g.json
  cargo xtask bench failover --repeat 100 --json f.json")]
struct Cuts {
    /// Cut so many times in each case [default: 100]
    #[arg(long, value_name = "N")]
    repeat: Option<u32>,
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
    /// Draw AS numbers, prefixes, addresses and the cuts' phases from this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Engine {
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Overhead {
    /// A short run, for a look
    #[arg(long)]
    quick: bool,
    /// Only these parts: hooks, latency, cpu, loss
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Arguments of `cargo xtask soak`.
#[derive(Args)]
pub struct Soak {
    /// For how long
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u32,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Bench {
    /// Runs a benchmark.
    pub fn run(self) -> Result<()> {
        match self.what {
            What::Overhead(arguments) => setup::run().and_then(|()| arguments.run()),
            What::Detect(arguments) => setup::run().and_then(|()| arguments.run("detect")),
            What::Failover(arguments) => setup::run().and_then(|()| arguments.run("failover")),
            What::Engine(arguments) => arguments.run(),
            What::Bgp(arguments) => setup::run().and_then(|()| arguments.run()),
        }
    }
}

impl Bgp {
    fn run(self) -> Result<()> {
        let mut bench = program("bench-bgp", "netwatch-bench-bgp", None, self.json)?;
        if self.quick {
            bench.arg("--quick");
        }
        if !self.only.is_empty() {
            bench.arg("--only").arg(self.only.join(","));
        }
        run(&mut bench)
    }
}

impl Cuts {
    fn run(self, verb: &str) -> Result<()> {
        let mut bench = program(
            "bench-failover",
            "netwatch-bench-failover",
            Some(verb),
            self.json,
        )?;
        for (flag, set) in [
            ("--quick", self.quick),
            ("--no-slow", self.no_slow),
            ("--noisy", self.noisy),
        ] {
            if set {
                bench.arg(flag);
            }
        }
        if !self.only.is_empty() {
            bench.arg("--only").arg(self.only.join(","));
        }
        if let Some(repeat) = self.repeat {
            bench.arg("--repeat").arg(repeat.to_string());
        }
        if let Some(seed) = self.seed {
            bench.arg("--seed").arg(seed.to_string());
        }
        run(&mut bench)
    }
}

impl Overhead {
    fn run(self) -> Result<()> {
        setup::install_bpftrace()?;
        let mut bench = command("overhead", self.json)?;
        if self.quick {
            bench.arg("--quick");
        }
        if !self.only.is_empty() {
            bench.arg("--only").arg(self.only.join(","));
        }
        run(&mut bench)
    }
}

impl Engine {
    /// Pure code: neither root nor the eBPF toolchain is needed.
    fn run(self) -> Result<()> {
        let mut bench = cargo(&["bench", "-q", "-p", "engine", "--bench", "engine", "--"]);
        if let Some(file) = self.json {
            bench.arg("--json").arg(absolute(&file)?);
        }
        run(&mut bench)
    }
}

impl Soak {
    /// Runs the soak.
    pub fn run(self) -> Result<()> {
        let mut bench = command("soak", self.json)?;
        bench.arg("--minutes").arg(self.minutes.to_string());
        run(&mut bench)
    }
}

fn command(verb: &str, json: Option<PathBuf>) -> Result<Command> {
    program("bench", "netwatch-bench", Some(verb), json)
}

/// Builds what is measured and what measures, with the release profile.
fn program(
    package: &str,
    binary: &str,
    verb: Option<&str>,
    json: Option<PathBuf>,
) -> Result<Command> {
    step("building netwatch and its benchmark (release profile)");
    run(&mut cargo(&[
        "build",
        "--release",
        "-p",
        "netwatch",
        "-p",
        package,
    ]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let programs = target.join("release");
    let bench = programs.join(binary);
    if !bench.exists() {
        bail!("the build left no {}", bench.display());
    }
    let mut command = Command::new(bench);
    command
        .current_dir(root())
        .args(verb)
        .arg("--netwatch")
        .arg(programs.join("netwatch"));
    if let Some(file) = json {
        command.arg("--json").arg(absolute(&file)?);
    }
    Ok(command)
}

/// Who writes it runs in another directory.
fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).context("cannot tell the current directory")
}
