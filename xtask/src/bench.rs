//! The benchmarks' front door: builds the daemon and `netwatch-bench`, then hands over.

use std::path::PathBuf;
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
    /// The BGP feed: a full table over a session, memory, churn, queries; BIRD, GoBGP and FRR beside it
    Bgp(Bgp),
}

#[derive(Args)]
struct Bgp {
    /// A tenth of the synthetic table, one run each
    #[arg(long)]
    quick: bool,
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
            What::Overhead(arguments) => arguments.run(),
            What::Bgp(arguments) => arguments.run(),
        }
    }
}

impl Bgp {
    fn run(self) -> Result<()> {
        // The daemons must not take port 179 of this machine: the benchmark starts its own.
        setup::install_receivers()?;
        let mut bench = program("bench-bgp", "netwatch-bench-bgp", self.json)?;
        if self.quick {
            bench.arg("--quick");
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

impl Soak {
    /// Runs the soak.
    pub fn run(self) -> Result<()> {
        let mut bench = command("soak", self.json)?;
        bench.arg("--minutes").arg(self.minutes.to_string());
        run(&mut bench)
    }
}

/// A verb of `netwatch-bench`.
fn command(verb: &str, json: Option<PathBuf>) -> Result<Command> {
    let built = program("bench", "netwatch-bench", None)?;
    // The verb comes before its options.
    let mut command = Command::new(built.get_program());
    command.current_dir(root()).arg(verb).args(built.get_args());
    write_to(&mut command, json)?;
    Ok(command)
}

/// Builds what is measured and what measures, with the release profile.
fn program(package: &str, binary: &str, json: Option<PathBuf>) -> Result<Command> {
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
        .arg("--netwatch")
        .arg(programs.join("netwatch"));
    write_to(&mut command, json)?;
    Ok(command)
}

fn write_to(command: &mut Command, json: Option<PathBuf>) -> Result<()> {
    if let Some(file) = json {
        let file = std::path::absolute(file).context("cannot tell the current directory")?;
        command.arg("--json").arg(file);
    }
    Ok(())
}
