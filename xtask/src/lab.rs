//! The lab's front door: builds the daemon and the rig, then hands over to `netwatch-lab`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::shell::{cargo, root, run, step};

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub struct Demo {
    /// Draw AS numbers, prefixes, addresses, round-trip times and the culprit from this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    build: Build,
}

/// Arguments of `cargo xtask lab`.
#[derive(Args)]
pub struct Lab {
    /// Scenarios by name; none: all of them
    scenarios: Vec<String>,
    /// Only list the scenarios
    #[arg(long)]
    list: bool,
    /// Measure the rig itself, without the daemon
    #[arg(long, conflicts_with_all = ["scenarios", "file", "list"])]
    null: bool,
    /// Run a scenario of your own (docs/lab.md tells the format)
    #[arg(long, value_name = "SCENARIO.toml")]
    file: Vec<PathBuf>,
    /// Run each scenario so many times
    #[arg(long, value_name = "N")]
    repeat: Option<u32>,
    /// Draw AS numbers, prefixes, addresses, round-trip times and the culprit from this seed
    #[arg(long)]
    seed: Option<u64>,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Tell what happens as it happens
    #[arg(long)]
    verbose: bool,
    /// Keep each run's directory: configurations, logs, the daemon's journal
    #[arg(long)]
    keep: bool,
    /// Test the rig itself: a script of the lab's own reroutes, no daemon runs
    #[arg(long)]
    no_daemon: bool,
    #[command(flatten)]
    build: Build,
}

/// How the programs are built.
#[derive(Args)]
pub struct Build {
    /// Use the development profile: builds faster, runs slower
    #[arg(long)]
    dev: bool,
}

impl Demo {
    /// Runs the demo.
    pub fn run(self) -> Result<()> {
        let mut lab = self.build.rig("demo")?;
        option(&mut lab, "--seed", self.seed);
        option(
            &mut lab,
            "--json",
            absolute(self.json)?.map(|file| file.display().to_string()),
        );
        run(&mut lab)
    }
}

impl Lab {
    /// Every scenario once, as CI runs them.
    pub fn everything() -> Self {
        Self {
            scenarios: Vec::new(),
            list: false,
            null: false,
            file: Vec::new(),
            repeat: None,
            seed: None,
            json: None,
            verbose: false,
            keep: false,
            no_daemon: false,
            build: Build { dev: true },
        }
    }

    /// Runs scenarios.
    pub fn run(self) -> Result<()> {
        let mut lab = self.build.rig(if self.null { "null" } else { "run" })?;
        option(
            &mut lab,
            "--json",
            absolute(self.json)?.map(|file| file.display().to_string()),
        );
        if self.null {
            return run(&mut lab);
        }
        option(&mut lab, "--seed", self.seed);
        option(&mut lab, "--repeat", self.repeat);
        for file in self.file {
            lab.arg("--file").arg(std::path::absolute(file)?);
        }
        for (flag, set) in [
            ("--list", self.list),
            ("--verbose", self.verbose),
            ("--keep", self.keep),
            ("--no-daemon", self.no_daemon),
        ] {
            if set {
                lab.arg(flag);
            }
        }
        lab.args(self.scenarios);
        run(&mut lab)
    }
}

impl Build {
    /// Builds daemon and rig; the rig's command with the daemon's path in it.
    fn rig(&self, verb: &str) -> Result<Command> {
        let profile = if self.dev { "dev" } else { "release" };
        step(&format!(
            "building netwatch and its lab ({profile} profile)"
        ));
        run(&mut cargo(&[
            "build",
            "--profile",
            profile,
            "-p",
            "netwatch",
            "-p",
            "lab",
        ]))?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        let programs = target.join(if self.dev { "debug" } else { "release" });
        let lab = programs.join("netwatch-lab");
        if !lab.exists() {
            bail!("the build left no {}", lab.display());
        }
        let mut command = Command::new(lab);
        command.current_dir(root()).arg(verb);
        if verb != "null" {
            command.arg("--netwatch").arg(programs.join("netwatch"));
        }
        Ok(command)
    }
}

fn absolute(file: Option<PathBuf>) -> Result<Option<PathBuf>> {
    file.map(std::path::absolute)
        .transpose()
        .context("cannot tell the current directory")
}

fn option(command: &mut Command, flag: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        command.arg(flag).arg(value.to_string());
    }
}
