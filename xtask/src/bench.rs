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
    /// How many signals per second the engine takes on one core, and how long its rules run
    Engine(Engine),
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
            What::Engine(arguments) => arguments.run(),
        }
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

/// Builds what is measured and what measures, with the release profile.
fn command(verb: &str, json: Option<PathBuf>) -> Result<Command> {
    step("building netwatch and its benchmark (release profile)");
    run(&mut cargo(&[
        "build",
        "--release",
        "-p",
        "netwatch",
        "-p",
        "bench",
    ]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let programs = target.join("release");
    let bench = programs.join("netwatch-bench");
    if !bench.exists() {
        bail!("the build left no {}", bench.display());
    }
    let mut command = Command::new(bench);
    command
        .current_dir(root())
        .arg(verb)
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
