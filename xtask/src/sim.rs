//! The simulation's front door: builds `netwatch-sim` in the release profile, then hands over.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::shell::{cargo, root, run, step};

/// Arguments of `cargo xtask sim`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Sim {
    /// `cargo xtask sim --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Sim {
    /// Builds and runs it, in the caller's directory: that is where its files are.
    pub fn run(self) -> Result<()> {
        step("building the simulation");
        run(&mut cargo(&[
            "build",
            "--quiet",
            "--release",
            "--package",
            "sim",
        ]))?;
        let program = root().join("target/release/netwatch-sim");
        run(Command::new("nice").arg(program).args(self.arguments))
    }
}
